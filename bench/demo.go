package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/chroot"
	"github.com/brisk-project/brisk/internal/localregistry"
	"github.com/brisk-project/brisk/internal/mkimage"
)

// repository is where the demo keeps its image in its own registry.
const repository = "demo/image:latest"

// DemoConfig configures a demo.
type DemoConfig struct {
	// Image is the reference of an image to use in place of one made from this
	// machine's Go toolchain. It is copied to the demo's own registry first, so
	// that every way of starting it meets the same link.
	Image string
	// Args is the command to run in place of the image's own.
	Args []string
	// BitsPerSecond limits what the registry sends, to everybody together. 0 is
	// no limit.
	BitsPerSecond int64
	// Nodes is how many nodes start the image lazily, one after the other.
	Nodes int
	// Small leaves out those parts of the toolchain that building needs least, for
	// machines in a hurry.
	Small bool
	// NodeFlags are passed to every node's mount command.
	NodeFlags []string
	// Dir holds everything the demo writes. It is emptied at the end.
	Dir string
	// Out receives the progress and the table, Programs what the programs print.
	Out      io.Writer
	Programs io.Writer
	// PlainHTTP allows http to the registry of Image.
	PlainHTTP bool
	Log       *slog.Logger
}

// demo is one demonstration under way.
type demo struct {
	cfg      DemoConfig
	registry *localregistry.Server
	ref      name.Reference
	config   *v1.ConfigFile
	report   DemoReport
}

// Demo runs the demo and prints its table. It returns the figures as well.
func Demo(ctx context.Context, cfg DemoConfig) (_ *DemoReport, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the demo mounts images and makes namespaces: run it as root")
	}
	d := &demo{cfg: cfg, report: DemoReport{BitsPerSecond: cfg.BitsPerSecond}}
	if err := d.prepare(ctx); err != nil {
		return nil, err
	}
	if err := d.limitRegistry(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.registry.Close()) }()
	if err := d.plain(ctx); err != nil {
		return nil, fmt.Errorf("plain pull: %w", err)
	}
	if err := d.lazy(ctx); err != nil {
		return nil, err
	}
	return &d.report, d.report.write(cfg.Out)
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.cfg.Out, format+"\n", args...) //nolint:errcheck // progress that nobody reads stops nothing
}

func (d *demo) path(elem ...string) string {
	return filepath.Join(append([]string{d.cfg.Dir}, elem...)...)
}

// prepare fills a registry that has no limit yet: pushing and converting are not
// what the demo measures over the link.
func (d *demo) prepare(ctx context.Context) (err error) {
	d.registry, err = localregistry.Start(ctx, localregistry.Config{Root: d.path("registry")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.registry.Close()) }()
	image, err := d.image(ctx)
	if err != nil {
		return err
	}
	d.say("pushing it to a registry on %s", d.registry.Addr())
	if err := d.push(ctx, image); err != nil {
		return err
	}
	if d.config, err = image.ConfigFile(); err != nil {
		return fmt.Errorf("reading configuration of the image: %w", err)
	}
	d.say("making its index")
	return d.convert(ctx)
}

// push puts the image into the registry.
func (d *demo) push(ctx context.Context, image v1.Image) (err error) {
	if d.ref, err = name.ParseReference(d.registry.Addr() + "/" + repository); err != nil {
		return fmt.Errorf("naming the demo image: %w", err)
	}
	if err := remote.Write(d.ref, image, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing the demo image: %w", err)
	}
	return nil
}

func (d *demo) image(ctx context.Context) (v1.Image, error) {
	if d.cfg.Image != "" {
		var options []name.Option
		if d.cfg.PlainHTTP {
			options = append(options, name.Insecure)
		}
		ref, err := name.ParseReference(d.cfg.Image, options...)
		if err != nil {
			return nil, fmt.Errorf("image reference: %w", err)
		}
		d.say("copying %s", ref)
		image, err := remote.Image(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", ref, err)
		}
		return image, nil
	}
	goroot, err := mkimage.GoRoot(ctx)
	if err != nil {
		return nil, err
	}
	d.say("making an image of the Go toolchain in %s", goroot)
	scratch := d.path("image")
	if err := os.MkdirAll(scratch, 0o750); err != nil {
		return nil, fmt.Errorf("making the demo image: %w", err)
	}
	return mkimage.GoToolchain(ctx, goroot, scratch, d.cfg.Small)
}

// limitRegistry starts the registry again on the same address, with the limit.
func (d *demo) limitRegistry(ctx context.Context) (err error) {
	d.registry, err = localregistry.Start(ctx, localregistry.Config{
		Addr:          d.ref.Context().RegistryStr(),
		Root:          d.path("registry"),
		BitsPerSecond: d.cfg.BitsPerSecond,
	})
	return err
}

// plain pulls, unpacks and runs the image as a runtime without lazy loading does.
func (d *demo) plain(ctx context.Context) error {
	d.say("plain pull, unpack and run")
	blobs, root := d.path("plain", "blobs"), d.path("plain", "root")
	for _, dir := range []string{blobs, root} {
		if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the root of a container is for everybody
			return err
		}
	}
	err := d.measure(ctx, "plain pull", func() (string, error) { return root, plainPull(ctx, d.ref, blobs, root) })
	return errors.Join(err, os.RemoveAll(d.path("plain")))
}

// measure takes the time from before ready, which provides a root filesystem, to
// the first output and the end of the program run in it.
func (d *demo) measure(ctx context.Context, what string, ready func() (root string, err error)) error {
	unix.Sync() // what the run before left to write is not this one's load
	sent, start := d.registry.Stats().BytesSent, time.Now()
	root, err := ready()
	if err != nil {
		return err
	}
	out := &firstWrite{w: d.cfg.Programs}
	if err := chroot.Run(ctx, d.spec(root), out, out); err != nil {
		return err
	}
	done := time.Now()
	if out.when.IsZero() {
		out.when = done // a program that prints nothing shows itself by ending
	}
	d.report.Runs = append(d.report.Runs, DemoRun{
		Name:          what,
		FirstOutput:   out.when.Sub(start),
		Done:          done.Sub(start),
		RegistryBytes: d.registry.Stats().BytesSent - sent,
	})
	return nil
}

func (d *demo) spec(root string) chroot.Spec {
	config := d.config.Config
	args := append(append([]string{}, config.Entrypoint...), config.Cmd...)
	if len(d.cfg.Args) > 0 {
		args = d.cfg.Args
	}
	return chroot.Spec{Root: root, Args: args, Env: config.Env, Dir: config.WorkingDir, Temporary: true}
}
