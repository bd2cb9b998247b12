package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p"
)

const (
	defaultDir = "/var/lib/brisk"
	// unmountTimeout is how long an image may stay in use after it was asked to go.
	unmountTimeout = 10 * time.Second
	// envDetached tells a process that it is the one in the background.
	envDetached = "BRISK_DETACHED"
	// logFile is where that process then logs, in the node's directory.
	logFile = "node.log"
)

type mountOptions struct {
	*globals
	dir         string
	overlay     bool
	overlayDir  string
	detach      bool
	noFill      bool
	platform    string
	backend     string
	cacheSize   cli.Size
	memorySize  cli.Size
	readTimeout time.Duration
	listen      []string
	peers       []string
}

func newMountCommand(shared *globals) *cobra.Command {
	opts := &mountOptions{globals: shared, cacheSize: 20 << 30, memorySize: 32 << 20}
	cmd := &cobra.Command{
		Use:   "mount IMAGE DIR",
		Short: "Mount an image with an index, and load it on demand",
		Long: "Mount an image with an index (see \"brisk convert\") on a directory. Without --detach, the\n" +
			"command serves the mount until it is interrupted or the image is unmounted. If a\n" +
			"process already serves mounts from --dir, that process also mounts this image, with its\n" +
			"own settings.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.run(cmd.Context(), cmd.OutOrStdout(), args[0], args[1])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.dir, "dir", defaultDir, "directory for the cache and all state, not on an overlay filesystem")
	flags.BoolVar(&opts.overlay, "overlay", false, "make the mount writable; unmounting discards the changes")
	flags.StringVar(&opts.overlayDir, "overlay-dir", "", "make the mount writable and store the changes in this directory")
	flags.BoolVarP(&opts.detach, "detach", "d", false, "serve the mount in the background, and log to node.log in --dir")
	flags.BoolVar(&opts.noFill, "no-fill", false, "load only blocks that are read; do not load the rest in the background")
	flags.StringVar(&opts.platform, "platform", "", "platform of a multi-platform image, such as linux/arm64 (default: this machine's)")
	flags.StringVar(&opts.backend, "backend", "", "force a mount backend: erofs, loop or tree (default: the first that works)")
	flags.Var(&opts.cacheSize, "cache-size", "limit of the disk cache")
	flags.Var(&opts.memorySize, "memory-size", "limit of the memory cache")
	flags.DurationVar(&opts.readTimeout, "read-timeout", 30*time.Second, "time after which a waiting read fails with EIO")
	flags.StringSliceVar(&opts.listen, "listen", nil, "serve blocks to peers on this address, such as /ip4/0.0.0.0/tcp/4077")
	flags.StringSliceVar(&opts.peers, "peer", nil, "peer to load blocks from: peerID@/ip4/.../tcp/...")
	return cmd
}

func (o *mountOptions) run(ctx context.Context, out io.Writer, image, target string) error {
	if o.detach && os.Getenv(envDetached) == "" {
		return detach(ctx, out)
	}
	req, err := o.request(image, target)
	if err != nil {
		return err
	}
	if err := o.mount(ctx, out, req); err != nil {
		if req.Temporary {
			err = errors.Join(err, os.RemoveAll(req.Overlay))
		}
		return err
	}
	return nil
}

// mount lets the node that serves mounts from --dir mount the image, or becomes it.
func (o *mountOptions) mount(ctx context.Context, out io.Writer, req node.MountRequest) error {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return fmt.Errorf("finding --dir: %w", err)
	}
	status, err := node.Client{Dir: dir}.Mount(ctx, req)
	switch {
	case err == nil:
		return printMounted(out, status)
	case !errors.Is(err, node.ErrNoNode):
		return err
	}
	return o.serve(ctx, out, dir, req)
}

func (o *mountOptions) request(image, target string) (node.MountRequest, error) {
	req := node.MountRequest{Image: image, NoFill: o.noFill}
	var err error
	if info, err := os.Stat(target); err != nil || !info.IsDir() {
		return req, fmt.Errorf("%s is not a directory; make it first", target)
	}
	if req.Target, err = lazyfs.ResolveTarget(target); err != nil {
		return req, err
	}
	if req.Platform, err = parsePlatform(o.platform); err != nil {
		return req, err
	}
	switch {
	case o.overlayDir != "":
		req.Overlay, err = filepath.Abs(o.overlayDir)
	case o.overlay:
		req.Overlay, err = o.temporaryOverlay()
		req.Temporary = true
	}
	if err != nil {
		return req, fmt.Errorf("making overlay directory: %w", err)
	}
	return req, nil
}

const overlays = "overlays"

func (o *mountOptions) temporaryOverlay() (string, error) {
	dir, err := filepath.Abs(filepath.Join(o.dir, overlays))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return os.MkdirTemp(dir, "")
}

// removeStale removes the temporary overlays that a killed process has left in a
// node's directory, all but one.
func removeStale(dir, keep string) error {
	left, err := filepath.Glob(filepath.Join(dir, overlays, "*"))
	if err != nil {
		return fmt.Errorf("looking for overlays of a process before: %w", err)
	}
	for _, path := range left {
		if path == keep {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("removing overlay of a process before: %w", err)
		}
	}
	return nil
}

// serve runs a node until ctx ends or the image has been unmounted.
func (o *mountOptions) serve(ctx context.Context, out io.Writer, dir string, req node.MountRequest) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("mounting needs root")
	}
	client, err := o.mountClient(nil)
	if err != nil {
		return err
	}
	defer client.Close()
	peers, err := p2p.ParsePeers(o.peers)
	if err != nil {
		return err
	}
	n, err := node.New(node.Config{
		Dir: dir, CacheBytes: int64(o.cacheSize), MemoryBytes: int64(o.memorySize),
		Backend: lazyfs.Backend(o.backend), ReadTimeout: o.readTimeout,
		Registry: client, Listen: o.listen, Peers: peers, Log: o.logger(),
	})
	if err != nil {
		return err
	}
	// The node has the directory for itself now, and does not listen yet.
	if err := removeStale(dir, req.Overlay); err != nil {
		return errors.Join(err, n.Close())
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	return o.mountAndWait(ctx, out, n, dir, req, ended)
}

func (o *mountOptions) mountAndWait(ctx context.Context, out io.Writer, n *node.Node, dir string, req node.MountRequest, ended chan error) error {
	m, err := n.Mount(ctx, req)
	if err != nil {
		return err
	}
	if err := printMounted(out, m.Status()); err != nil {
		return err
	}
	if os.Getenv(envDetached) != "" {
		if err := leaveTerminal(filepath.Join(dir, logFile)); err != nil {
			return err
		}
	}
	select {
	case err := <-ended:
		ended <- nil
		return err
	case <-n.Idle():
		return m.CheckIndex()
	case <-ctx.Done():
	}
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmountTimeout)
	defer cancel()
	return errors.Join(m.CheckIndex(), n.UnmountAll(patient))
}

func printMounted(out io.Writer, status node.MountStatus) error {
	_, err := fmt.Fprintf(out, "mounted %s (%s) on %s\n", status.Image, status.Digest, status.Target)
	return err
}

// detach starts this very command again in the background and waits until it has
// mounted the image or failed.
func detach(ctx context.Context, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, os.Args[1:]...) //nolint:gosec // this program, with its own arguments
	cmd.Env = append(os.Environ(), envDetached+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting in the background: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting in the background: %w", err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return errors.Join(errors.New("the process in the background did not mount the image"), cmd.Wait())
	}
	if _, err := io.WriteString(out, line); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// leaveTerminal makes a file the output of this process from now on, so that nobody
// who reads what the command printed waits for the process in the background.
func leaveTerminal(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of the process in the background: %w", err)
	}
	err = errors.Join(unix.Dup3(int(file.Fd()), int(os.Stdout.Fd()), 0), unix.Dup3(int(file.Fd()), int(os.Stderr.Fd()), 0), file.Close())
	if err != nil {
		return fmt.Errorf("writing to %s from now on: %w", path, err)
	}
	return nil
}

func parsePlatform(text string) (v1.Platform, error) {
	platform, err := registry.ParsePlatform(text)
	if err != nil {
		return v1.Platform{}, fmt.Errorf("--platform: %w", err)
	}
	return platform, nil
}
