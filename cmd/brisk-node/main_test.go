package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/programs"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// envProgram is set in the processes of tests that are to be the program.
const envProgram = "BRISK_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" {
		main()
		return
	}
	os.Exit(containerdtest.Main(func() int {
		code := m.Run()
		if code == 0 {
			if err := goleak.Find(registrytest.LeakOptions()...); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return code
	}))
}

// site is a node: this program, containerd, and a registry.
type site struct {
	*containerdtest.Daemon
	t    *testing.T
	dir  string
	reg  *registrytest.Registry
	logs *logs
	pid  int    // of the program
	stop func() // ends the program
	kill func() // kills it

	layers sync.Map // the digests of layers that were pushed
}

// newSite starts a node.
func newSite(t *testing.T, flags ...string) *site {
	t.Helper()
	return newSiteWith(t, containerdtest.Config{}, flags...)
}

// newSiteWith starts a node with a containerd that is configured in another way.
func newSiteWith(t *testing.T, cfg containerdtest.Config, flags ...string) *site {
	t.Helper()
	return newSiteAt(t, registrytest.New(t, registrytest.Config{}), cfg, flags...)
}

// newSiteAt starts a node whose images are in a registry.
func newSiteAt(t *testing.T, reg *registrytest.Registry, cfg containerdtest.Config, flags ...string) *site {
	t.Helper()
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "node"), reg: reg, logs: &logs{}}
	s.start(cfg, flags...)
	return s
}

// start starts the program and containerd, which is also found under s.link.
func (s *site) start(cfg containerdtest.Config, flags ...string) {
	t := s.t
	t.Helper()
	require.FUSE(t)
	t.Cleanup(s.remove)
	s.stop = s.run(flags...)
	cfg.Socket, cfg.Root = s.socket(), s.dir
	s.Daemon = containerdtest.Start(t, cfg)
	if err := os.Symlink(s.Address, s.link()); err != nil {
		t.Fatal(err)
	}
}

// link returns a path of the socket of containerd that is known before containerd runs.
func (s *site) link() string { return filepath.Join(s.dir, "containerd.sock") }

func (s *site) socket() string { return filepath.Join(s.dir, "s.sock") }

// run runs the program until stop or the end of the test.
func (s *site) run(flags ...string) (stop func()) {
	s.t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), "/proc/self/exe",
		append([]string{"run", "--dir", s.dir, "--socket", s.socket(), "--lookup-timeout", "20s", "--write-indexes=false", "--http", "", "--containerd", s.link()}, flags...)...)
	cmd.Env = append(os.Environ(), envProgram+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = s.logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	wait, err := programs.Start(cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	s.pid = cmd.Process.Pid
	var once sync.Once
	end := func(signal os.Signal) {
		once.Do(func() {
			if err := cmd.Process.Signal(signal); err != nil {
				s.t.Error(err)
			}
			if err := wait(); err != nil && signal != os.Kill {
				s.t.Errorf("brisk-node: %v", err)
			}
		})
	}
	stop = func() { end(syscall.SIGTERM) }
	s.kill = func() { end(os.Kill) }
	s.t.Cleanup(func() {
		stop()
		if s.t.Failed() {
			s.t.Logf("brisk-node:\n%s", s.logs)
		}
	})
	containerdtest.Await(s.t, "the socket of brisk-node", 20*time.Second, func() bool {
		var dialer net.Dialer
		conn, err := dialer.DialContext(s.t.Context(), "unix", s.socket())
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	return stop
}

// awaitConnected waits until containerd has found the program again. It does not try all
// the time.
func (s *site) awaitConnected() {
	s.t.Helper()
	containerdtest.Await(s.t, "containerd connecting to brisk-node", containerdtest.Timeout, func() bool {
		service := s.Client.SnapshotService(containerdtest.Snapshotter)
		if _, err := service.Prepare(s.Context(), "probe", "", containerdtest.KeepSnapshot()); err != nil {
			return false
		}
		return service.Remove(s.Context(), "probe") == nil
	})
}

// remove checks that nothing is mounted any more, and removes the directory.
func (s *site) remove() {
	for _, point := range s.mounts() {
		s.t.Errorf("%s is still mounted", point)
		if err := kernel.Unmount(context.WithoutCancel(s.t.Context()), point, true); err != nil {
			s.t.Error(err)
		}
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Error(err)
	}
}

// mounts returns what is mounted below the directory of the node.
func (s *site) mounts() []string {
	all, err := kernel.Mounts()
	if err != nil {
		s.t.Fatal(err)
	}
	var points []string
	for _, m := range all {
		if strings.HasPrefix(m.Point, s.dir+"/") {
			points = append([]string{m.Point}, points...)
		}
	}
	return points
}

// holdBlocks keeps the registry from answering with blocks until it is told to.
func (s *site) holdBlocks() (release func()) {
	held := make(chan struct{})
	s.reg.Inject(registrytest.Rule{
		Match: func(r *http.Request) bool {
			_, layer := s.layers.Load(path.Base(r.URL.Path))
			return layer && r.Method == http.MethodGet
		},
		Fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			select {
			case <-held:
				next.ServeHTTP(w, r)
			case <-r.Context().Done():
				panic(http.ErrAbortHandler)
			}
		},
	})
	return func() { close(held); s.reg.ClearFaults() }
}

// pushClient returns a client that may push.
func pushClient(t *testing.T) *registry.Client {
	t.Helper()
	client, err := registry.NewClient(registry.Config{Keychain: registrytest.Keychain(registrytest.Pusher)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// resolveToPush resolves an image, with a client that may push.
func resolveToPush(t *testing.T, ref string) (*registry.Client, *registry.Image) {
	t.Helper()
	client := pushClient(t)
	parsed, err := client.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	image, err := client.Resolve(t.Context(), parsed, v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	return client, image
}

// push puts an image into the registry, with an index or without.
func (s *site) push(ref string, indexed bool, layers ...registrytest.Layer) string {
	s.t.Helper()
	for _, layer := range layers {
		s.layers.Store(digestOf(s.t, layer).String(), nil)
	}
	s.reg.Push(s.t, ref, registrytest.Image{Layers: layers})
	if indexed {
		client := pushClient(s.t)
		if _, err := convert.Convert(s.t.Context(), client, s.reg.Ref(s.t, ref), convert.Config{}); err != nil {
			s.t.Fatal(err)
		}
	}
	s.reg.ResetRequests()
	return s.reg.Ref(s.t, ref).String()
}
