package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/node/host/adopt"
	"github.com/brisk-project/brisk/node/host/containerdconfig"
)

const (
	// startTimeout is how long containerd may take to answer after a restart.
	startTimeout = time.Minute
	pollInterval = 250 * time.Millisecond
)

// Commands runs programs.
type Commands interface {
	// Run returns what a program writes to its standard output. The error holds what
	// it writes to the other one, and wraps exec.ErrNotFound if there is no such program.
	Run(ctx context.Context, name string, args ...string) ([]byte, error)
}

// Exec is the [Commands] of this machine.
type Exec struct{}

// Run implements [Commands].
func (Exec) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out, fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	if errors.Is(err, fs.ErrNotExist) { // as it is called when the name is a path
		err = fmt.Errorf("%w: %w", exec.ErrNotFound, err)
	}
	return out, err
}

// Config configures an [Installer].
type Config struct {
	// Target is what containerd is to be configured for. A zero version is asked from
	// containerd.
	Target containerdconfig.Target
	// Address is the socket of containerd.
	Address string
	// Containerd is the program, as a path or a name.
	Containerd string
	// Service is what the service manager calls containerd.
	Service string
	// Systemd says that systemd manages this machine. Without it nothing is started or
	// stopped, and no unit is written.
	Systemd bool
	// Unit is where the unit is written, Program and NodeConfig what it runs.
	Unit, Program, NodeConfig string
	// Kubelet is the socket that kubelet is to have as its image service, empty for none.
	Kubelet string
	// Settings is what NodeConfig is to hold if there is no such file.
	Settings []byte
	// Streams has the layers of lazy images, which uninstalling unpacks for the former
	// snapshotter; nil means that it does not.
	Streams adopt.Streams
	// SkipLost goes on although there are images that would have to be pulled again.
	SkipLost bool
	// DryRun says what would be done, and does nothing.
	DryRun bool
	// Commands runs programs; nil means [Exec].
	Commands Commands
	// Out is told what is done.
	Out io.Writer
	// Log may be nil.
	Log *slog.Logger
}

// Installer installs and uninstalls. It is not safe for concurrent use.
type Installer struct {
	cfg Config
	log *slog.Logger
}

// New returns an installer. It does nothing yet.
func New(cfg Config) *Installer {
	if cfg.Commands == nil {
		cfg.Commands = Exec{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Installer{cfg: cfg, log: cfg.Log}
}

func (i *Installer) report(format string, args ...any) {
	if _, err := fmt.Fprintf(i.cfg.Out, format+"\n", args...); err != nil {
		i.log.Debug("nobody reads what is done", "error", err)
	}
}

// systemctl has the service manager do something.
func (i *Installer) systemctl(ctx context.Context, args ...string) error {
	i.report("systemctl %s", strings.Join(args, " "))
	if i.cfg.DryRun {
		return nil
	}
	_, err := i.cfg.Commands.Run(ctx, "systemctl", args...)
	return err
}

// findVersion asks for the version of containerd if it is not given: the daemon, for
// the program may be a newer one already, or else the program.
func (i *Installer) findVersion(ctx context.Context) error {
	if i.cfg.Target.Version != (containerdconfig.Version{}) {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	text, err := containerdapi.Version(limited, i.cfg.Address)
	if err != nil {
		i.log.DebugContext(ctx, "containerd does not answer", "error", err)
		var out []byte
		if out, err = i.cfg.Commands.Run(ctx, i.cfg.Containerd, "--version"); err != nil {
			return fmt.Errorf("finding the version of containerd, which does not answer on %s: %w", i.cfg.Address, err)
		}
		text = string(out)
	}
	i.cfg.Target.Version, err = containerdconfig.ParseVersion(text)
	return err
}

// reconfigure brings the configuration of containerd into a state, checks it, and
// restarts containerd if anything has changed.
func (i *Installer) reconfigure(ctx context.Context, state containerdconfig.State) error {
	changes, err := i.cfg.Target.Plan(state)
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		i.report("the configuration of containerd needs no change")
		return nil
	}
	i.report("%s", strings.TrimSuffix(containerdconfig.Diff(changes), "\n"))
	if i.cfg.DryRun {
		return i.restart(ctx, state)
	}
	if err := containerdconfig.Apply(changes); err != nil {
		return err
	}
	err = i.validate(ctx, state)
	if err != nil {
		return errors.Join(fmt.Errorf("the configuration is as before, for the new one is not right: %w", err), containerdconfig.Undo(changes))
	}
	if err := i.restart(ctx, state); err != nil {
		err = fmt.Errorf("the configuration is as before, for containerd does not work with the new one: %w", err)
		// The way back must not end with the way there.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
		defer cancel()
		return errors.Join(err, containerdconfig.Undo(changes), i.systemctl(ctx, "restart", i.cfg.Service))
	}
	return nil
}

// validate lets containerd read its configuration, if its program is here.
func (i *Installer) validate(ctx context.Context, state containerdconfig.State) error {
	if _, err := os.Stat(i.cfg.Target.Main); errors.Is(err, os.ErrNotExist) && i.cfg.Target.Root == "" {
		return nil // containerd does without
	}
	dump, err := i.cfg.Commands.Run(ctx, i.cfg.Containerd, "--config", i.cfg.Target.Main, "config", "dump")
	if errors.Is(err, exec.ErrNotFound) {
		i.report("the program %s is not here, so the configuration is not validated", i.cfg.Containerd)
		return nil
	}
	if err != nil {
		return fmt.Errorf("letting containerd read it: %w", err)
	}
	problems, err := i.cfg.Target.Check(dump)
	if err != nil || state != containerdconfig.Selected {
		return err
	}
	var errs []error
	for _, p := range problems {
		if !p.Minor {
			errs = append(errs, fmt.Errorf("%s: %s", p.What, p.Advice))
		}
	}
	return errors.Join(errs...)
}

// restart restarts containerd and waits until it answers.
func (i *Installer) restart(ctx context.Context, state containerdconfig.State) error {
	if !i.cfg.Systemd {
		i.report("systemd does not manage this machine: restart containerd yourself")
		return nil
	}
	if err := i.systemctl(ctx, "restart", i.cfg.Service); err != nil || i.cfg.DryRun {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return i.await(ctx, state)
}

// await waits until containerd answers, and knows the snapshotter if it should.
func (i *Installer) await(ctx context.Context, state containerdconfig.State) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := i.works(ctx, state)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for containerd: %w", err)
		}
	}
}

// Install makes containerd use the agent, and the service manager run it. What is
// installed already is left alone. Images that another snapshotter has unpacked are adopted
// before containers are made with the agent.
func (i *Installer) Install(ctx context.Context) error {
	if err := i.findVersion(ctx); err != nil {
		return err
	}
	i.report("containerd %s", i.cfg.Target.Version)
	changes, err := i.cfg.Target.Plan(containerdconfig.Selected)
	if err != nil {
		return err // before anything is changed
	}
	images := 0
	if len(changes) > 0 {
		if images, err = i.unpacked(ctx); err != nil {
			return err
		}
	}
	if err := i.installUnit(ctx); err != nil {
		return err
	}
	if ready, err := i.adopt(ctx, images); err != nil || !ready {
		return err
	}
	if err := i.reconfigure(ctx, containerdconfig.Selected); err != nil {
		return err
	}
	i.adoptLate(ctx)
	i.sayKubelet()
	return nil
}

// sayKubelet says what is left to do where kubelet runs: its configuration is not ours.
func (i *Installer) sayKubelet() {
	if i.cfg.Kubelet == "" {
		i.report("kubelet needs no change. With cri.socket set, the agent learns the pull secrets that kubelet uses; docs/operations.md says how")
		return
	}
	i.report("what is left to do: put \"imageServiceEndpoint: unix://%s\" into the configuration of kubelet and restart it, so that the agent learns the pull secrets that kubelet uses", i.cfg.Kubelet)
}

func (i *Installer) installUnit(ctx context.Context) error {
	settings, err := i.settingsChange()
	if err != nil {
		return err
	}
	changes := settings
	if i.cfg.Systemd {
		unit, err := i.unit()
		if err != nil {
			return err
		}
		changed, err := i.unitChange(unit)
		if err != nil {
			return err
		}
		changes = append(changes, changed...)
	}
	i.report("%s", strings.TrimSuffix(containerdconfig.Diff(changes), "\n"))
	if !i.cfg.DryRun {
		if err := containerdconfig.Apply(changes); err != nil {
			return err
		}
	}
	if !i.cfg.Systemd {
		i.report("systemd does not manage this machine: run \"%s run --config %s\" before containerd", i.cfg.Program, i.cfg.NodeConfig)
		return nil
	}
	if err := i.startUnit(ctx, len(changes) > 0); err != nil {
		err = fmt.Errorf("starting the agent: %w", err)
		if i.cfg.DryRun || len(changes) == 0 {
			return err
		}
		if last := changes[len(changes)-1]; last.Old == nil && filepath.Base(last.Path) == filepath.Base(i.cfg.Unit) {
			err = errors.Join(err, i.systemctl(ctx, "disable", "--now", UnitName))
		}
		return errors.Join(err, containerdconfig.Undo(changes), i.systemctl(ctx, "daemon-reload"))
	}
	return nil
}

// startUnit starts the agent, again if its unit has changed.
func (i *Installer) startUnit(ctx context.Context, changed bool) error {
	if !changed {
		return i.systemctl(ctx, "enable", "--now", UnitName)
	}
	return errors.Join(i.systemctl(ctx, "daemon-reload"), i.systemctl(ctx, "enable", UnitName), i.systemctl(ctx, "restart", UnitName))
}
