package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/brisk-project/brisk/lazyfs/scrub"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/agent"
	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/node/host/containerdconfig"
)

const (
	// askTimeout is how long somebody may take to answer.
	askTimeout = 10 * time.Second
	// skewWarn and skewFail are how far clocks may be apart. Tokens are good for a
	// minute at least.
	skewWarn = 5 * time.Second
	skewFail = time.Minute
)

// containerd checks that containerd is there, and has the snapshotter.
func (d *doctor) containerd(ctx context.Context) {
	address := d.cfg.Node.Containerd.Address
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	text, err := containerdapi.Version(ctx, address)
	if err != nil {
		d.fail("start containerd, or set containerd.address", "%v", err)
		out, err := d.cfg.Commands.Run(ctx, d.cfg.Containerd, "--version")
		if err != nil {
			return
		}
		text = string(out)
	}
	version, parseErr := containerdconfig.ParseVersion(text)
	switch {
	case parseErr != nil:
		d.warn("", "%v", parseErr)
		return
	case !version.Supported():
		d.fail("use containerd 1.7 or 2.x", "containerd %s is not supported", version)
	default:
		d.ok("containerd %s", version)
	}
	if d.cfg.Target.Version == (containerdconfig.Version{}) {
		d.cfg.Target.Version = version
	}
	if err != nil {
		return
	}
	switch known, err := containerdapi.HasSnapshotter(ctx, address, d.cfg.Target.Name); {
	case err != nil:
		d.warn("", "%v", err)
	case !known:
		d.fail("run brisk-node install; if that was done, restart containerd", "containerd runs without the snapshotter %s", d.cfg.Target.Name)
	default:
		d.ok("containerd has the snapshotter %s", d.cfg.Target.Name)
	}
}

// containerdConfig checks the configuration that containerd starts with.
func (d *doctor) containerdConfig(ctx context.Context) {
	dump, err := d.cfg.Commands.Run(ctx, d.cfg.Containerd, "--config", d.cfg.Target.Main, "config", "dump")
	if errors.Is(err, exec.ErrNotFound) {
		d.warn("give --containerd-program", "the program %s is not here, so the configuration of containerd is not checked", d.cfg.Containerd)
		return
	}
	if err != nil {
		d.fail("containerd will not start until that is repaired", "%v", err)
		return
	}
	problems, err := d.cfg.Target.Check(dump)
	if err != nil {
		d.fail("", "%v", err)
		return
	}
	for _, p := range problems {
		if p.Minor {
			d.warn(p.Advice, "%s", p.What)
		} else {
			d.fail(p.Advice, "%s", p.What)
		}
	}
	if len(problems) == 0 {
		d.ok("%s and what it imports make images lazy", d.cfg.Target.Main)
	}
}

// rot reads what the scrubber has found, whether the agent runs or not.
func (d *doctor) rot(context.Context) {
	found, err := scrub.ReadSavedState(filepath.Join(d.cfg.Node.Directory, node.ScrubStateFile))
	switch {
	case err != nil:
		d.warn("what the disk has lost before is not known; the agent begins a new record", "%v", err)
	case found.Suspect != "":
		d.fail("drain the node and replace the disk, or run brisk-node scrub trust once you know the reason", "the disk of the cache is suspect: %s", found.Suspect)
	case found.Corrupt > 0:
		d.warn("see brisk-node status; if it goes on, replace the disk", "%d blocks of the cache were found corrupt within 30 days, %d of them are not mended yet",
			found.Corrupt, found.Pending)
	default:
		d.ok("no block of the cache was found corrupt within 30 days")
	}
}

// agent asks the agent.
func (d *doctor) agent(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	status, err := agent.FetchStatus(ctx, d.cfg.Node.Directory)
	if errors.Is(err, node.ErrNoNode) {
		d.fail("start it: systemctl start brisk-node, or brisk-node run", "the agent does not run")
		return
	}
	if err != nil {
		d.fail("see the log of the agent: journalctl -u brisk-node", "%v", err)
		return
	}
	if err := containerdapi.CheckSnapshotter(ctx, d.cfg.Node.Socket, false); err != nil {
		d.fail("compare the field socket of the configuration with that of the running agent", "%v", err)
	}
	for _, reason := range status.NotReady {
		d.fail("see the log of the agent: journalctl -u brisk-node", "the agent is not ready: %s", reason)
	}
	if len(status.NotReady) == 0 {
		d.ok("the agent is ready, and mounts with %s", status.Backend)
	}
	for _, image := range status.Images {
		if image.Reason != "" && image.Reason != "no-index" {
			d.warn("see what it says", "%s is not lazy, or not all of it: %s: %s", image.Image, image.Reason, image.Detail)
		}
	}
}

// clock compares the clock with that of a registry.
func (d *doctor) clock(ctx context.Context) {
	if d.cfg.Registry == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	theirs, here, err := d.date(ctx)
	if err != nil {
		d.warn("see whether the registry can be reached from here", "%v", err)
		return
	}
	skew := here.Sub(theirs).Abs().Truncate(time.Second)
	switch {
	case skew >= skewFail:
		d.fail("synchronise the clock: tokens and certificates seem to be too old or too new", "the clock is %s away from that of %s", skew, d.cfg.Registry)
	case skew >= skewWarn:
		d.warn("synchronise the clock", "the clock is %s away from that of %s", skew, d.cfg.Registry)
	default:
		d.ok("the clock is that of %s", d.cfg.Registry)
	}
}

// date returns the time there, and the time here that was at the same moment.
func (d *doctor) date(ctx context.Context) (theirs, here time.Time, err error) {
	var errs []error
	for _, scheme := range []string{"https", "http"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+d.cfg.Registry+"/v2/", http.NoBody)
		if err != nil {
			return theirs, here, fmt.Errorf("asking %s for the time: %w", d.cfg.Registry, err)
		}
		asked := time.Now()
		response, err := http.DefaultTransport.RoundTrip(request)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		here = asked.Add(time.Since(asked) / 2)
		theirs, err = http.ParseTime(response.Header.Get("Date"))
		if err = errors.Join(err, response.Body.Close()); err != nil {
			return theirs, here, fmt.Errorf("asking %s for the time: %w", d.cfg.Registry, err)
		}
		return theirs, here, nil
	}
	return theirs, here, fmt.Errorf("asking %s for the time: %w", d.cfg.Registry, errors.Join(errs...))
}
