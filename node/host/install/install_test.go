package install_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/agent"
	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/node/host/containerdconfig"
	"github.com/brisk-project/brisk/node/host/install"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

func TestMain(m *testing.M) {
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

// manager does what the service manager is told to do to a real containerd.
type manager struct {
	*containerdtest.Daemon
	install.Exec
	stopAgent func()

	mu    sync.Mutex
	calls []string
	fail  string // what fails
}

// Run implements [install.Commands].
func (m *manager) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if name != "systemctl" {
		return m.Exec.Run(ctx, name, args...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	call := strings.Join(args, " ")
	m.calls = append(m.calls, call)
	switch {
	case call == m.fail:
		return nil, errors.New("it failed")
	case call == "restart containerd":
		return nil, m.Restart(ctx)
	case call == "disable --now "+install.UnitName && m.stopAgent != nil:
		m.stopAgent()
	}
	return nil, nil
}

// output collects what is said.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String implements fmt.Stringer.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// site is a containerd that knows no snapshotter, and what installs one.
type site struct {
	*manager
	t      *testing.T
	dir    string
	out    *output
	cfg    install.Config
	before string // the configuration
}

func newSite(t *testing.T) *site {
	t.Helper()
	return newSiteWith(t, containerdtest.Config{Plain: true})
}

func newSiteWith(t *testing.T, cfg containerdtest.Config) *site {
	t.Helper()
	return newSiteIn(t, t.TempDir(), cfg)
}

// newSiteIn has the agent keep everything in a directory.
func newSiteIn(t *testing.T, dir string, cfg containerdtest.Config) *site {
	t.Helper()
	d := containerdtest.Start(t, cfg)
	s := &site{manager: &manager{Daemon: d}, t: t, dir: dir, out: new(output)}
	s.before = s.read(d.ConfigPath())
	s.cfg = install.Config{
		Target: containerdconfig.Target{
			Name: containerdtest.Snapshotter, Socket: filepath.Join(dir, "s.sock"), Dir: dir,
			Main: d.ConfigPath(), DropIn: filepath.Join(dir, "conf.d", "zz-brisk.toml"),
		},
		Address: d.Address, Containerd: cmp.Or(cfg.Program, containerdtest.Program(t, "containerd")), Service: "containerd", Systemd: true,
		Unit: filepath.Join(dir, install.UnitName), Program: "/usr/local/bin/brisk-node", NodeConfig: filepath.Join(dir, "etc", "node.yaml"),
		Settings: []byte("kind: NodeConfig\n"),
		Commands: s.manager, Out: s.out, Streams: agent.Streams{Dir: dir},
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.out)
		}
	})
	return s
}

func (s *site) read(path string) string {
	s.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(content)
}

func (s *site) install() {
	s.t.Helper()
	if err := install.New(s.cfg).Install(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) uninstall(how install.UninstallOptions) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	if err := install.New(s.cfg).Uninstall(ctx, how); err != nil {
		s.t.Fatal(err)
	}
	s.requireAsBefore()
}

// requireAsBefore checks that nothing is left of the installation.
func (s *site) requireAsBefore() {
	s.t.Helper()
	if got := s.read(s.ConfigPath()); got != s.before {
		s.t.Errorf("the configuration became\n%s", got)
	}
	for _, path := range []string{s.cfg.Unit, s.cfg.Target.DropIn, s.ConfigPath() + ".before-brisk"} {
		if _, err := os.Stat(path); err == nil {
			s.t.Errorf("%s is left", path)
		}
	}
}

// serve runs the agent until stop or the end of the test.
func (s *site) serve() {
	s.t.Helper()
	require.FUSE(s.t)
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		s.t.Fatal(err)
	}
	a, err := agent.New(s.t.Context(), agent.Config{
		Node: node.Config{
			Dir: s.dir, CacheBytes: 1 << 30, MemoryBytes: 8 << 20, ReadTimeout: 5 * time.Second, Registry: client,
			Log: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
		},
		Socket: s.cfg.Target.Socket, LookupTimeout: 20 * time.Second,
		Idle: snapshotter.IdleMounts{Max: 16, Timeout: time.Hour},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	s.stopAgent = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("the agent: %v", err)
		}
		client.Close()
	})
	s.t.Cleanup(s.stopAgent)
	containerdtest.Await(s.t, "the socket of the agent", containerdtest.Timeout, func() bool {
		var dialer net.Dialer
		conn, err := dialer.DialContext(s.t.Context(), "unix", s.cfg.Target.Socket)
		return err == nil && conn.Close() == nil
	})
}

// push puts an image with a shell into a registry.
func (s *site) push() string {
	s.t.Helper()
	program, err := os.ReadFile(require.Tool(s.t, "busybox"))
	if err != nil {
		s.t.Fatal(err)
	}
	reg := registrytest.New(s.t, registrytest.Config{})
	layer := registrytest.Tar(s.t, registrytest.File{Name: "./"}, registrytest.File{Name: "dev/"}, registrytest.File{Name: "proc/"},
		registrytest.File{Name: "sys/"}, registrytest.File{Name: "bin/"}, registrytest.File{Name: "bin/busybox", Data: program, Mode: 0o755})
	name := reg.Push(s.t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: layer, Level: 1}}})
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	if _, err := convert.Convert(s.t.Context(), client, name, convert.Config{}); err != nil {
		s.t.Fatal(err)
	}
	return reg.Ref(s.t, "app:v1").String()
}

// sleeper runs a container until somebody kills it.
func (s *site) sleeper(image containerd.Image) *containerdtest.Container {
	s.t.Helper()
	c := s.Create("sleeper", image, nil, "/bin/busybox", "sleep", "1000")
	c.Start()
	return c
}

// requireOverlay checks that containerd runs an image without the agent.
func (s *site) requireOverlay(ref string) {
	s.t.Helper()
	s.Snapshotter = "overlayfs"
	c := s.Create("plain", s.Pull(ref), nil, "/bin/busybox", "echo", "works")
	c.Start()
	if code, out := c.Wait(); code != 0 || out != "works\n" {
		s.t.Errorf("code %d, %q", code, out)
	}
	c.Remove()
	s.RemoveImage(ref)
}

func TestInstall(t *testing.T) {
	s := newSite(t)
	s.cfg.DryRun, s.cfg.Kubelet = true, "/run/brisk/cri.sock"
	s.install()
	s.requireAsBefore()
	if len(s.calls) > 0 {
		t.Errorf("a dry run called %q", s.calls)
	}
	for _, want := range []string{"systemctl restart containerd", "snapshotter = 'brisk'", "FileDescriptorStoreMax", `"imageServiceEndpoint: unix:///run/brisk/cri.sock"`} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("nothing of %q in\n%s", want, s.out)
		}
	}
	s.cfg.DryRun = false
	s.install()
	s.calls = nil
	s.install()
	if want := "enable --now brisk-node.service"; strings.Join(s.calls, ",") != want {
		t.Errorf("installing again called %q", s.calls)
	}
	s.uninstall(install.UninstallOptions{})
	s.calls = nil
	s.uninstall(install.UninstallOptions{})
	if len(s.calls) > 0 {
		t.Errorf("uninstalling again called %q", s.calls)
	}
}

// TestFailures checks that containerd works after everything that can go wrong.
func TestFailures(t *testing.T) {
	s := newSite(t)
	s.fail = "restart brisk-node.service"
	if err := install.New(s.cfg).Install(t.Context()); err == nil {
		t.Error("no error when the agent does not start")
	}
	s.requireAsBefore()
	s.fail = "restart containerd"
	if err := install.New(s.cfg).Install(t.Context()); err == nil {
		t.Error("no error when containerd does not start")
	}
	if got := s.read(s.ConfigPath()); got != s.before {
		t.Errorf("the configuration became\n%s", got)
	}
	s.fail = ""
	// A later file selects another snapshotter.
	later := filepath.Join(filepath.Dir(s.cfg.Target.DropIn), "zzz.toml")
	const other = "version = 3\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'native'\n"
	if err := os.WriteFile(later, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	err := install.New(s.cfg).Install(t.Context())
	if err == nil || !strings.Contains(err.Error(), "native") {
		t.Errorf("another snapshotter is selected: %v", err)
	}
	if got := s.read(s.ConfigPath()); got != s.before {
		t.Errorf("the configuration became\n%s", got)
	}
	if serving, err := s.Client.IsServing(t.Context()); err != nil || !serving {
		t.Errorf("containerd does not serve: %v", err)
	}
}

func TestDrain(t *testing.T) {
	s := newSite(t)
	s.serve()
	s.install()
	ref := s.push()
	c := s.sleeper(s.Pull(ref))
	err := install.New(s.cfg).Uninstall(t.Context(), install.UninstallOptions{})
	inUse, ok := errors.AsType[*install.InUseError](err)
	if !ok || len(inUse.Containers) != 1 || !inUse.Containers[0].Running || !strings.Contains(err.Error(), ref) {
		t.Fatalf("with a container: %v", err)
	}
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ended <- install.New(s.cfg).Uninstall(ctx, install.UninstallOptions{Drain: true})
	}()
	containerdtest.Await(t, "the installer waiting for the container", containerdtest.Timeout, func() bool {
		return strings.Contains(s.out.String(), "waiting for 1 containers")
	})
	if text := s.read(s.cfg.Target.DropIn); strings.Contains(text, "snapshotter =") {
		t.Errorf("new containers would be on the agent:\n%s", text)
	}
	if code, out := c.Exec("works", "/bin/busybox", "echo", "works"); code != 0 || out != "works\n" {
		t.Errorf("code %d, %q", code, out)
	}
	select {
	case err := <-ended:
		t.Errorf("the container runs, and the agent is gone: %v", err)
	default:
	}
	c.Remove()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	s.requireAsBefore()
	s.requireOverlay(ref)
}

func TestForce(t *testing.T) {
	s := newSite(t)
	s.serve()
	s.install()
	ref := s.push()
	s.sleeper(s.Pull(ref))
	if got := s.read(s.cfg.NodeConfig); got != string(s.cfg.Settings) {
		t.Errorf("configuration %q", got)
	}
	s.uninstall(install.UninstallOptions{Drain: true, DrainTimeout: time.Second, Force: true, Purge: true})
	s.requireOverlay(ref)
	if _, err := os.Stat(filepath.Join(s.dir, "cache")); err == nil {
		t.Error("the cache is left")
	}
}

// TestDead uninstalls an agent that is gone.
func TestDead(t *testing.T) {
	s := newSite(t)
	s.serve()
	s.install()
	ref := s.push()
	s.Pull(ref)
	s.stopAgent()
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	containerdtest.Await(t, "containerd", containerdtest.Timeout, func() bool {
		_, err := containerdapi.Version(t.Context(), s.Address)
		return err == nil
	})
	s.uninstall(install.UninstallOptions{})
	s.requireOverlay(ref)
}
