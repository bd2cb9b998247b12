package containerdtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	labels "github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Pull pulls and unpacks an image as the CRI does, with labels that tell the snapshotter
// of the image.
func (d *Daemon) Pull(ref string) containerd.Image {
	d.tb.Helper()
	image, err := d.Client.Pull(d.Context(), ref, containerd.WithPullUnpack, containerd.WithPullSnapshotter(d.Snapshotter),
		containerd.WithImageHandlerWrapper(labels.AppendInfoHandlerWrapper(ref)))
	if err != nil {
		d.tb.Fatalf("pulling %s: %v", ref, err)
	}
	return image
}

// Usage returns what the committed snapshots of a snapshotter take together, as it says.
func (d *Daemon) Usage(snapshotter string) (total snapshots.Usage) {
	d.tb.Helper()
	service := d.Client.SnapshotService(snapshotter)
	err := service.Walk(d.Context(), func(ctx context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			return nil
		}
		usage, err := service.Usage(ctx, info.Name)
		total.Add(usage)
		return err
	})
	if err != nil {
		d.tb.Fatal(err)
	}
	return total
}

// RemoveImage removes an image under all its names, the CRI adds some, and waits for
// everything that only it needed to go.
func (d *Daemon) RemoveImage(ref string) {
	d.tb.Helper()
	store := d.Client.ImageService()
	image, err := store.Get(d.Context(), ref)
	if err != nil {
		d.tb.Fatalf("removing %s: %v", ref, err)
	}
	all, err := store.List(d.Context())
	if err != nil {
		d.tb.Fatalf("removing %s: %v", ref, err)
	}
	for _, other := range all {
		if other.Target.Digest != image.Target.Digest {
			continue
		}
		err := store.Delete(d.Context(), other.Name, images.SynchronousDelete())
		if err != nil && !errdefs.IsNotFound(err) {
			d.tb.Fatalf("removing %s: %v", other.Name, err)
		}
	}
}

// Container is a container with a task.
type Container struct {
	containerd.Container
	Task containerd.Task

	d      *Daemon
	exited <-chan containerd.ExitStatus
	out    output
}

// output collects what a task writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Create makes a container of an image that is going to run a program.
func (d *Daemon) Create(id string, image containerd.Image, opts []oci.SpecOpts, args ...string) *Container {
	d.tb.Helper()
	c, err := d.create(id, image, nil, opts, args)
	if err != nil {
		d.tb.Fatalf("creating container %s: %v", id, err)
	}
	return c
}

// TryCreate is Create without failing the test, for use in other goroutines.
func (d *Daemon) TryCreate(id string, image containerd.Image, args ...string) (*Container, error) {
	return d.create(id, image, nil, nil, args)
}

// CreateOn makes a container on a new snapshot with its own options.
func (d *Daemon) CreateOn(id string, on Base, spec []oci.SpecOpts, args ...string) (*Container, error) {
	parent := on.Snapshot
	if parent == "" {
		diffs, err := on.Image.RootFS(d.Context())
		if err != nil {
			return nil, err
		}
		parent = identity.ChainID(diffs).String()
	}
	if _, err := d.Client.SnapshotService(d.Snapshotter).Prepare(d.Context(), id, parent, append(on.Options, KeepSnapshot())...); err != nil {
		return nil, err
	}
	return d.create(id, on.Image, []containerd.NewContainerOpts{containerd.WithSnapshot(id)}, spec, args)
}

// KeepSnapshot is an option for snapshots that nothing refers to, and that containerd would
// remove therefore.
func KeepSnapshot() snapshots.Opt {
	return snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
}

// Base is what a container stands on.
type Base struct {
	Image    containerd.Image
	Snapshot string // if it is not that of the image
	Options  []snapshots.Opt
}

// Output returns what the program has written so far.
func (c *Container) Output() string { return c.out.String() }

func (d *Daemon) create(id string, image containerd.Image, more []containerd.NewContainerOpts, opts []oci.SpecOpts, args []string) (*Container, error) {
	ctx := d.Context()
	spec := append([]oci.SpecOpts{
		oci.WithImageConfig(image), oci.WithProcessArgs(args...),
		// Below the cgroup of the test, so that none is left.
		func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
			s.Linux.CgroupsPath = ""
			return nil
		},
	}, opts...)
	if len(more) == 0 {
		more = []containerd.NewContainerOpts{containerd.WithNewSnapshot(id, image)}
	}
	// Tests that run at the same time share a cgroup, in which this name must be unique.
	sum := sha256.Sum256([]byte(d.dir))
	name := hex.EncodeToString(sum[:4]) + "-" + id
	made, err := d.Client.NewContainer(ctx, name, append(append([]containerd.NewContainerOpts{
		containerd.WithImage(image), containerd.WithSnapshotter(d.Snapshotter),
		containerd.WithRuntime("io.containerd.runc.v2", &options.Options{BinaryName: d.Runc(), Root: d.RuncRoot()}),
	}, more...), containerd.WithNewSpec(spec...))...)
	if err != nil {
		return nil, err
	}
	c := &Container{Container: made, d: d}
	c.Task, err = made.NewTask(ctx, cio.NewCreator(cio.WithStreams(nil, &c.out, &c.out)))
	if err != nil {
		return nil, err
	}
	c.exited, err = c.Task.Wait(ctx)
	return c, err
}

// Start starts the program.
func (c *Container) Start() {
	c.d.tb.Helper()
	if err := c.Task.Start(c.d.Context()); err != nil {
		c.d.tb.Fatalf("starting container %s: %v", c.ID(), err)
	}
}

// Wait waits until the program has ended, and returns its exit code and what it wrote.
func (c *Container) Wait() (code uint32, output string) {
	c.d.tb.Helper()
	select {
	case status := <-c.exited:
		if err := status.Error(); err != nil {
			c.d.tb.Fatalf("waiting for container %s: %v", c.ID(), err)
		}
		c.Task.IO().Wait()
		return status.ExitCode(), c.out.String()
	case <-time.After(time.Minute):
		c.d.tb.Fatalf("container %s does not end; it wrote %q", c.ID(), c.out.String())
		return 0, ""
	}
}

// Exec runs another program in the container and returns its exit code and output.
func (c *Container) Exec(id string, args ...string) (code uint32, out string) {
	c.d.tb.Helper()
	ctx := c.d.Context()
	spec, err := c.Spec(ctx)
	if err != nil {
		c.d.tb.Fatal(err)
	}
	process := *spec.Process
	process.Args = args
	var written output
	p, err := c.Task.Exec(ctx, id, &process, cio.NewCreator(cio.WithStreams(nil, &written, &written)))
	if err != nil {
		c.d.tb.Fatalf("preparing %s in container %s: %v", args, c.ID(), err)
	}
	exited, err := p.Wait(ctx)
	if err != nil {
		c.d.tb.Fatal(err)
	}
	if err := p.Start(ctx); err != nil {
		c.d.tb.Fatalf("running %s in container %s: %v", args, c.ID(), err)
	}
	status := <-exited
	p.IO().Wait()
	if _, err := p.Delete(ctx); err != nil {
		c.d.tb.Fatal(err)
	}
	return status.ExitCode(), written.String()
}

// Remove kills the program, and removes the container with its snapshot.
func (c *Container) Remove() {
	c.d.tb.Helper()
	ctx := c.d.Context()
	if _, err := c.Task.Delete(ctx, containerd.WithProcessKill); err != nil {
		c.d.tb.Fatalf("ending container %s: %v", c.ID(), err)
	}
	if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
		c.d.tb.Fatalf("removing container %s: %v", c.ID(), err)
	}
}

// Kill ends the program.
func (c *Container) Kill() {
	c.d.tb.Helper()
	if err := c.Task.Kill(c.d.Context(), syscall.SIGKILL); err != nil {
		c.d.tb.Fatalf("killing container %s: %v", c.ID(), err)
	}
}
