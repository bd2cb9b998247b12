package containerdtest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// Namespace is the one that tests work in, and the CRI does.
const Namespace = "k8s.io"

// Snapshotter is the name that containerd has for the snapshotter of [Config].
const Snapshotter = "brisk"

// Timeout is how long tests wait for something that should happen at once.
const Timeout = 30 * time.Second

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
	pollInterval = 20 * time.Millisecond
)

// Config configures a [Daemon].
type Config struct {
	// Builtin names a snapshotter of containerd's own to use instead of one under
	// Socket, "overlayfs" or "erofs". The latter needs mkfs.erofs on the PATH.
	Builtin string
	// Socket is that of the snapshotter.
	Socket string
	// Root is the directory in which it keeps what it loads.
	Root string
	// Plain leaves the snapshotter out of the configuration.
	Plain bool
	// ConfigPath is a directory with a hosts.toml for each registry.
	ConfigPath string
	// Transfer pulls through the transfer service, as containerd does without
	// further configuration, and not in the client.
	Transfer bool
	// Program is a containerd of another release with its shim beside it, empty for that
	// of [Programs]. Plain goes with it: releases differ in what they call things.
	Program string
	// Edit changes the configuration before containerd reads it.
	Edit func(path string)
}

// Daemon is a running containerd. Its clients use [Namespace].
type Daemon struct {
	Client  *containerd.Client
	Address string // of its socket
	// Snapshotter is what images are pulled and containers made with.
	Snapshotter string

	tb      testing.TB
	dir     string
	bin     string
	program string
	cmd     *exec.Cmd
	done    chan struct{} // closed when the process has ended
}

// Start starts containerd. It ends with the test, which fails if anything is left then.
func Start(tb testing.TB, cfg Config) *Daemon {
	tb.Helper()
	bin := Programs(tb)
	dir := tb.TempDir()
	// Root of a user namespace has to get to the root of its container.
	for _, above := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(above, 0o711); err != nil { //nolint:gosec // that is the point
			tb.Fatal(err)
		}
	}
	d := &Daemon{
		tb: tb, dir: dir, bin: bin, program: cmp.Or(cfg.Program, filepath.Join(bin, "containerd")),
		Address: filepath.Join(dir, "c.sock"), Snapshotter: cmp.Or(cfg.Builtin, Snapshotter),
	}
	tb.Cleanup(d.remove)
	if err := os.WriteFile(d.ConfigPath(), []byte(d.config(cfg)), 0o600); err != nil {
		tb.Fatal(err)
	}
	if cfg.Edit != nil {
		cfg.Edit(d.ConfigPath())
	}
	if err := d.launch(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.stop)
	var err error
	d.Client, err = containerd.New(d.Address, containerd.WithDefaultNamespace(Namespace), containerd.WithTimeout(startTimeout))
	if err != nil {
		tb.Fatalf("connecting to containerd: %v\n%s", err, d.Log())
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	if serving, err := d.Client.IsServing(ctx); !serving || err != nil {
		tb.Fatalf("containerd does not serve: %v\n%s", err, d.Log())
	}
	return d
}

func (d *Daemon) config(cfg Config) string {
	if cfg.Builtin != "" {
		return fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
[grpc]
address = %[3]q
[ttrpc]
address = %[4]q
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.service.v1.diff-service"]
default = ["erofs", "walking"]
[plugins."io.containerd.cri.v1.images"]
snapshotter = %[5]q
`, filepath.Join(d.dir, "root"), filepath.Join(d.dir, "state"), d.Address, d.Address+".ttrpc", cfg.Builtin)
	}
	exports := fmt.Sprintf("root = %q\n", cfg.Root)
	if cfg.Transfer {
		exports += "enable_remote_snapshot_annotations = \"true\"\n"
	}
	if cfg.Plain && cfg.Program != "" {
		return d.base(2, "io.containerd.grpc.v1.cri") // every release reads it
	}
	base := d.base(3, "io.containerd.cri.v1.runtime")
	if cfg.Plain {
		return base
	}
	mirrors := ""
	if cfg.ConfigPath != "" {
		mirrors = fmt.Sprintf("[plugins.\"io.containerd.cri.v1.images\".registry]\nconfig_path = %q\n", cfg.ConfigPath)
	}
	return base + mirrors + fmt.Sprintf(`[proxy_plugins.%[1]s]
type = "snapshot"
address = %[2]q
capabilities = ["remap-ids"]
[proxy_plugins.%[1]s.exports]
%[3]s
[plugins."io.containerd.cri.v1.images"]
snapshotter = %[1]q
disable_snapshot_annotations = %[4]t
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/%[5]s"
snapshotter = %[1]q
`, Snapshotter, cfg.Socket, exports, cfg.Transfer, runtime.GOARCH)
}

// base is the configuration without the snapshotter. NRI is off: its socket has the same path for
// all daemons of a machine, and one that starts beside others may wait for it.
func (d *Daemon) base(version int, cri string) string {
	return fmt.Sprintf(`version = %[7]d
root = %[1]q
state = %[2]q
[grpc]
address = %[3]q
[ttrpc]
address = %[4]q
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins.%[8]q.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.%[8]q.containerd.runtimes.runc.options]
BinaryName = %[5]q
Root = %[6]q
`, filepath.Join(d.dir, "root"), filepath.Join(d.dir, "state"), d.Address, d.Address+".ttrpc", d.Runc(), d.RuncRoot(), version, cri)
}

// Runc returns the path of runc.
func (d *Daemon) Runc() string { return filepath.Join(d.bin, "runc") }

// RuncRoot returns the directory of runc's state.
func (d *Daemon) RuncRoot() string { return filepath.Join(d.dir, "runc") }

// Context returns a context of the test with the namespace of the daemon.
func (d *Daemon) Context() context.Context {
	return namespaces.WithNamespace(d.tb.Context(), Namespace)
}

// Log returns what containerd has logged.
func (d *Daemon) Log() string {
	content, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// stop removes all containers and ends containerd.
func (d *Daemon) stop() {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.WithoutCancel(d.tb.Context()), Namespace), stopTimeout)
	defer cancel()
	if d.Client != nil {
		if err := d.removeContainers(ctx); err != nil {
			d.tb.Errorf("removing containers: %v", err)
		}
		if err := d.Client.Close(); err != nil {
			d.tb.Errorf("closing the client: %v", err)
		}
	}
	d.end(ctx)
	if d.tb.Failed() {
		d.tb.Logf("containerd:\n%s", d.Log())
	}
}

func (d *Daemon) removeContainers(ctx context.Context) error {
	all, err := d.Client.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		if task, err := c.Task(ctx, nil); err == nil {
			if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
			return err
		}
	}
	return nil
}

// remove removes what of this containerd is left against all hope.
func (d *Daemon) remove() {
	for _, pid := range d.shims() {
		d.tb.Errorf("shim %d is left", pid)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			d.tb.Error(err)
		}
	}
	mounts, err := kernel.Mounts()
	if err != nil {
		d.tb.Error(err)
	}
	for _, m := range slices.Backward(mounts) {
		if strings.HasPrefix(m.Point, d.dir+"/") {
			d.tb.Errorf("%s of type %s is still mounted", m.Point, m.Type)
			if err := kernel.Unmount(context.WithoutCancel(d.tb.Context()), m.Point, true); err != nil {
				d.tb.Error(err)
			}
		}
	}
}

// shims returns the shims of this containerd, known by its socket.
func (d *Daemon) shims() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		d.tb.Error(err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && strings.Contains(string(args), "containerd-shim") && strings.Contains(string(args), d.Address) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Await polls until a condition holds, and fails the test when that takes too long.
func Await(tb testing.TB, what string, timeout time.Duration, holds func() bool) {
	tb.Helper()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("%s: not within %s", what, timeout)
		}
	}
}
