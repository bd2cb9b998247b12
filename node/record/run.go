package record

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/chroot"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/waterfall"
)

const (
	// maxTime is how long a recording may take in all.
	maxTime = 10 * time.Minute
	// cacheBytes and memoryBytes bound the caches of the node.
	cacheBytes  = 20 << 30
	memoryBytes = 32 << 20
	// readTimeout is how long a read may wait.
	readTimeout = time.Minute
	// unmountTimeout is how long the image may be in use after its program has ended.
	unmountTimeout = 10 * time.Second
)

// Config configures [Run].
type Config struct {
	// Registry is the client that the image is found with.
	Registry *registry.Client
	// Image is a reference, Platform says which of its platforms.
	Image    string
	Platform v1.Platform
	// Args is what to run in place of the entrypoint and command of the image.
	Args []string
	// Env is added to the environment of the image, as NAME=VALUE.
	Env []string
	// Isolated leaves the program nothing but loopback as its network.
	Isolated bool
	// Until says when the start is over: at the first of these.
	Until []Until
	// Dir is where to work: a directory is made in it and removed. It must not be on an
	// overlay filesystem.
	Dir string
	// Backend forces a mount backend; empty takes the best that works.
	Backend lazyfs.Backend
	// Starts, if set, records what the start waited for. Registry is to tell it of its requests.
	Starts *waterfall.Recorder
	// Output is where the output of the program goes.
	Output io.Writer
	// Log may be nil.
	Log *slog.Logger
}

// Recording is what was recorded.
type Recording struct {
	File startup.File
	// Image is what was run.
	Image *registry.Image
	// Start is what the start waited for, nil without a recorder.
	Start *waterfall.Start
	// Ended is what ended the recording, Took how long it lasted.
	Ended Until
	Took  time.Duration
}

// Run runs the program and records what it reads until its start is over. Then it ends the
// program, and nothing is left of it. An error of a program that fails wraps an
// [*exec.ExitError].
func Run(ctx context.Context, cfg Config) (_ *Recording, err error) {
	ref, err := cfg.Registry.ParseReference(cfg.Image)
	if err != nil {
		return nil, err
	}
	image, err := cfg.Registry.Resolve(ctx, ref, cfg.Platform)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory to work in: %w", err)
	}
	dir, err := os.MkdirTemp(cfg.Dir, "trace-")
	if err != nil {
		return nil, fmt.Errorf("making a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	n, err := node.New(node.Config{
		Dir: filepath.Join(dir, "node"), CacheBytes: cacheBytes, MemoryBytes: memoryBytes, Backend: cfg.Backend,
		ReadTimeout: readTimeout, Registry: cfg.Registry, StartDuration: 2 * maxTime, ExactReads: true, StartRecorder: cfg.Starts, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- n.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	return cfg.onNode(ctx, n, image, dir)
}

// onNode mounts the image and runs it.
func (cfg Config) onNode(ctx context.Context, n *node.Node, image *registry.Image, dir string) (_ *Recording, err error) {
	target := filepath.Join(dir, "root")
	if err := os.Mkdir(target, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory to mount on: %w", err)
	}
	m, err := n.Mount(ctx, node.MountRequest{
		Image: cfg.Image, Platform: cfg.Platform, Target: target, Overlay: filepath.Join(dir, "overlay"), NoFill: true,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmountTimeout)
		defer cancel()
		err = errors.Join(err, m.Unmount(patient))
	}()
	if got := m.Status().Digest; got != image.Digest.String() {
		return nil, fmt.Errorf("recording %s: its tag moved from %s to %s meanwhile", cfg.Image, image.Digest, got)
	}
	spec := cfg.spec(image, target)
	began := time.Now()
	met, err := cfg.runUntil(ctx, m, spec)
	if err != nil {
		return nil, fmt.Errorf("recording %s: %w", cfg.Image, err)
	}
	read := m.Trace()
	if len(read) == 0 {
		return nil, fmt.Errorf("recording %s: the program has read nothing of the image", cfg.Image)
	}
	recorded := &Recording{
		File:  startup.File{Trace: read, Command: CommandLine(spec.Args)},
		Image: image, Ended: met, Took: time.Since(began),
	}
	if cfg.Starts != nil {
		start, err := n.StartRecord(ctx, image.Digest.String())
		if err != nil {
			return nil, err
		}
		recorded.Start = &start
	}
	return recorded, nil
}

func (cfg Config) spec(image *registry.Image, root string) chroot.Spec {
	config := image.Config.Config
	args := cfg.Args
	if len(args) == 0 {
		args = slices.Concat(config.Entrypoint, config.Cmd)
	}
	env := slices.Clone(config.Env)
	if !slices.ContainsFunc(env, func(entry string) bool { return len(entry) > 5 && entry[:5] == "PATH=" }) {
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	return chroot.Spec{
		Root: root, Args: args, Env: append(env, cfg.Env...), Dir: config.WorkingDir, User: config.User,
		Isolated: cfg.Isolated, Resolver: !cfg.Isolated,
	}
}
