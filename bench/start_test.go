//go:build !race

package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/brisk-project/brisk/internal/mkimage"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/link"
	"github.com/brisk-project/brisk/test/programs"
	"github.com/brisk-project/brisk/test/require"
)

const (
	// roundTrip is that of the link between node and registry.
	roundTrip  = 10 * time.Millisecond
	readyLimit = 3 * time.Minute
	pollPause  = 5 * time.Millisecond
	microunit  = 1e6
)

func TestMain(m *testing.M) {
	os.Exit(containerdtest.Main(m.Run))
}

// BenchmarkColdStart pulls an image of Node-RED over a link of 1 Gbit/s and 10 ms, makes
// a container of it, and starts it until it answers HTTP requests; then the same, but
// the container reads every file of the image. Every run has new state of containerd
// and brisk-node, and nothing in the page cache.
//
// It reports seconds, and MB that the registry sent until then; of brisk-node also the
// CPU time and the most memory it had. Beside it run two snapshotters of containerd's
// own that unpack images. It fails if one of them was faster in the same run: loading
// lazily is never to be slower, also where everything is read.
func BenchmarkColdStart(b *testing.B) {
	require.Root(b)
	ref := push(b, "node-app", mkimage.NodeApp)
	convertImage(b, program(b, "brisk"), ref)
	node := program(b, "brisk-node")
	for name, run := range map[string]func(*arm) time.Duration{"ready": (*arm).untilReady, "everything": (*arm).untilRead} {
		b.Run(name, func(b *testing.B) {
			took := make(map[string]time.Duration)
			for _, snapshotter := range []string{"overlayfs", "erofs", containerdtest.Snapshotter} {
				b.Run(snapshotter, func(b *testing.B) { took[snapshotter] = coldStart(b, ref, snapshotter, node, run) })
			}
			for rival, other := range took {
				if ours, ok := took[containerdtest.Snapshotter]; ok && ours > other {
					b.Errorf("%s for %s, %s for %s", ours, containerdtest.Snapshotter, other, rival)
				}
			}
		})
	}
}

// times are the durations of one cold start.
type times struct{ pull, create, run time.Duration }

// coldStart returns how long a start took on average.
func coldStart(b *testing.B, ref, snapshotter, node string, run func(*arm) time.Duration) time.Duration {
	b.Helper()
	host, path, _ := strings.Cut(ref, "/")
	var sum times
	var sent int64
	var usage syscall.Rusage
	for range b.N {
		l := link.New(b, host, link.Config{BytesPerSecond: link.Gigabit, RoundTrip: roundTrip})
		a := newArm(b, snapshotter, node)
		dropCaches(b)
		b.StartTimer()
		start := time.Now()
		image := a.Pull(l.Addr + "/" + path)
		pulled := time.Now()
		a.container = a.create(image)
		created := time.Now()
		took := run(a)
		b.StopTimer()
		sum.pull += pulled.Sub(start)
		sum.create += created.Sub(pulled)
		sum.run += took
		sent += l.Sent()
		a.container.Remove()
		a.RemoveImage(l.Addr + "/" + path)
		if a.stop != nil {
			usage = a.stop()
		}
	}
	n := float64(b.N)
	b.ReportMetric(sum.pull.Seconds()/n, "s-pull")
	b.ReportMetric(sum.create.Seconds()/n, "s-create")
	b.ReportMetric(sum.run.Seconds()/n, "s-run")
	b.ReportMetric((sum.pull+sum.create+sum.run).Seconds()/n, "s-total")
	b.ReportMetric(float64(sent)/microunit/n, "MB")
	if snapshotter == containerdtest.Snapshotter {
		b.ReportMetric(float64(usage.Maxrss)/1e3, "MB-rss")
		b.ReportMetric(time.Duration(usage.Utime.Nano()+usage.Stime.Nano()).Seconds(), "cpu-s")
	}
	return (sum.pull + sum.create + sum.run) / time.Duration(b.N)
}

// arm is a containerd with one of the snapshotters.
type arm struct {
	*containerdtest.Daemon
	b         *testing.B
	container *containerdtest.Container
	stop      func() syscall.Rusage // ends brisk-node, nil without
}

func newArm(b *testing.B, snapshotter, node string) *arm {
	b.Helper()
	if snapshotter != containerdtest.Snapshotter {
		return &arm{b: b, Daemon: containerdtest.Start(b, containerdtest.Config{Builtin: snapshotter})}
	}
	dir, err := os.MkdirTemp("", "node-") //nolint:usetesting // sockets have short names
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	socket := filepath.Join(dir, "s.sock")
	cmd := exec.CommandContext(context.WithoutCancel(b.Context()), node, "run", "--dir", dir, "--socket", socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log strings.Builder
	cmd.Stderr = &log
	wait, err := programs.Start(cmd)
	if err != nil {
		b.Fatal(err)
	}
	containerdtest.Await(b, "the socket of brisk-node", 20*time.Second, func() bool {
		conn, err := (&net.Dialer{}).DialContext(b.Context(), "unix", socket)
		return err == nil && conn.Close() == nil
	})
	a := &arm{b: b, Daemon: containerdtest.Start(b, containerdtest.Config{Socket: socket, Root: dir})}
	a.stop = func() syscall.Rusage {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), wait()); err != nil {
			b.Errorf("brisk-node: %v\n%s", err, &log)
		}
		usage, _ := cmd.ProcessState.SysUsage().(*syscall.Rusage) //nolint:errcheck // it is one here
		return *usage
	}
	return a
}

// create makes a container in the network of this machine.
func (a *arm) create(image containerd.Image) *containerdtest.Container {
	a.b.Helper()
	config, err := image.Spec(a.Context())
	if err != nil {
		a.b.Fatal(err)
	}
	args := config.Config.Entrypoint
	return a.Create("cold", image, []oci.SpecOpts{oci.WithHostNamespace(specs.NetworkNamespace)}, args...)
}

// untilReady starts the program and waits for its first answer.
func (a *arm) untilReady() time.Duration {
	a.b.Helper()
	start := time.Now()
	a.container.Start()
	url := "http://127.0.0.1:" + strconv.Itoa(mkimage.NodeAppPort)
	for time.Since(start) < readyLimit {
		request, err := http.NewRequestWithContext(a.b.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			a.b.Fatal(err)
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			if err := response.Body.Close(); err == nil && response.StatusCode == http.StatusOK {
				return time.Since(start)
			}
		}
		<-time.After(pollPause)
	}
	a.b.Fatalf("the application is not ready; it wrote\n%s", a.container.Output())
	return 0
}

// untilRead starts the program and reads every file beside it.
func (a *arm) untilRead() time.Duration {
	a.b.Helper()
	start := time.Now()
	a.container.Start()
	code, out := a.container.Exec("read", "/bin/busybox", "sh", "-c", "busybox find / -xdev -type f -exec /bin/busybox cat {} + | busybox wc -c")
	if code != 0 {
		a.b.Fatalf("reading everything: exit code %d\n%s", code, out)
	}
	return time.Since(start)
}

func dropCaches(b *testing.B) {
	b.Helper()
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200); err != nil {
		b.Fatal(fmt.Errorf("dropping the page cache: %w", err))
	}
}
