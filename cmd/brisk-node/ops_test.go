package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/brisk-project/brisk/node/agent"
	nodeconfig "github.com/brisk-project/brisk/node/config"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/require"
)

// command runs the program with other arguments.
func command(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	root := newRootCommand()
	root.SetOut(&out)
	root.SetErr(t.Output())
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return out.String(), err
}

// fetch asks the program over HTTP.
func fetch(t *testing.T, url string) (code int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(content)
}

// freeAddress returns an address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	return server.Listener.Addr().String()
}

// TestStatus looks at a node with a lazy image and a plain one.
func TestStatus(t *testing.T) {
	address, link := freeAddress(t), filepath.Join(t.TempDir(), "c.sock")
	s := newSite(t, "--http", address, "--containerd", link, "--cache-min-free", "1Mi")
	if code, body := fetch(t, "http://"+address+"/healthz"); code != http.StatusOK {
		t.Errorf("%d, %q", code, body)
	}
	if code, body := fetch(t, "http://"+address+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "containerd: ") {
		t.Errorf("without containerd: %d, %q", code, body)
	}
	if err := os.Symlink(s.Address, link); err != nil {
		t.Fatal(err)
	}
	containerdtest.Await(t, "the node being ready", containerdtest.Timeout, func() bool {
		code, _ := fetch(t, "http://"+address+"/readyz")
		return code == http.StatusOK
	})
	data, path, sum := files(t, 1, 1<<20)
	other, _, _ := files(t, 2, 1<<10)
	lazy, plain := s.push("lazy:v1", true, shell(t), data), s.push("plain:v1", false, other)
	image := s.Pull(lazy)
	s.Pull(plain)
	c := s.Create("one", image, nil, "/bin/sleep", "1000")
	c.Start()
	if code, out := c.Exec("sum", "/bin/sha256sum", path); code != 0 || out != sum {
		t.Errorf("code %d, %q", code, out)
	}
	out, err := command(t, "status", "--dir", s.dir, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var status agent.Status
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.Images) != 2 || len(status.NotReady) > 0 || status.Backend == "" || len(status.Credentials) == 0 {
		t.Fatalf("%s", out)
	}
	first, second := status.Images[0], status.Images[1]
	if !first.Lazy || first.Image != lazy || first.Reason != "" || first.Layers != 2 || first.LazyLayers != 2 || first.Mounts != 1 ||
		first.StreamBytes < 1<<20 || first.Local() == 0 || first.Traffic.Registry < 1<<20 || first.Pulled.IsZero() {
		t.Errorf("lazy: %s", out)
	}
	if second.Lazy || second.Image != plain || second.Reason != "no-index" || second.Detail == "" || second.ImageStatus != nil {
		t.Errorf("plain: %s", out)
	}
	table, err := command(t, "status", "--dir", s.dir)
	if err != nil || !strings.Contains(table, "no: no-index") || !strings.Contains(table, "%") || !strings.Contains(table, "ready:        yes") {
		t.Errorf("%v\n%s", err, table)
	}
	_, metrics := fetch(t, "http://"+address+"/metrics")
	s.requireMetrics(metrics, "lazy:v1", "plain:v1", first.Manifest[7:])
	c.Remove()
	s.RemoveImage(lazy)
	s.RemoveImage(plain)
	s.requireEmpty()
}

// requireMetrics checks that metrics are named well, and that labels name no image.
func (s *site) requireMetrics(metrics string, images ...string) {
	s.t.Helper()
	problems, err := promlint.New(strings.NewReader(metrics)).Lint()
	if err != nil {
		s.t.Error(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "brisk_") {
			s.t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	series := 0
	for line := range strings.Lines(metrics) {
		if !strings.HasPrefix(line, "brisk_") {
			continue
		}
		series++
		for _, image := range images {
			if _, labels, _ := strings.Cut(line, "{"); strings.Contains(labels, image) {
				s.t.Errorf("a label names an image: %s", line)
			}
		}
	}
	if series == 0 || series > 1000 {
		s.t.Errorf("%d time series", series)
	}
}

func TestConfigCommand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.yaml")
	content := "apiVersion: brisk.dev/v1alpha1\nkind: NodeConfig\ncache: {size: 5Gi, memory: 64Mi}\npeers: {listen: [/ip4/1.2.3.4/tcp/1]}\n"
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := command(t, "config", "--config", path, "--cache-size", "7Gi", "--listen", "/ip4/5.6.7.8/tcp/2", "--read-timeout", "3s", "-v")
	if err != nil {
		t.Fatal(err)
	}
	got, err := nodeconfig.Parse([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	want := nodeconfig.Default()
	want.Cache.Size, want.Cache.Memory = 7<<30, 64<<20
	want.Peers.Listen = []string{"/ip4/5.6.7.8/tcp/2"}
	want.Mount.ReadTimeout = 3e9
	want.Log.Level = "debug"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, args := range [][]string{
		{"--cache-size", "1"}, {"--cache-size", "x"}, {"--config", path + ".none"}, {"--read-timeout", "1"}, {"--log-level", "loud"},
	} {
		if _, err := command(t, append([]string{"config"}, args...)...); err == nil {
			t.Errorf("%q is no error", args)
		}
	}
}

func TestNoAgent(t *testing.T) {
	if _, err := command(t, "status", "--dir", t.TempDir()); err == nil || !strings.Contains(err.Error(), "brisk-node run") {
		t.Error(err)
	}
}

func TestDoctorCommand(t *testing.T) {
	dir := t.TempDir()
	out, err := command(t, "doctor", "--dir", dir, "--containerd", filepath.Join(dir, "none"), "-o", "json")
	if !errors.Is(err, errSick) {
		t.Error(err)
	}
	var findings []map[string]string
	if err := json.Unmarshal([]byte(out), &findings); err != nil || len(findings) < 5 {
		t.Errorf("%v: %s", err, out)
	}
	if out, err = command(t, "doctor", "--dir", dir, "--containerd", filepath.Join(dir, "none")); !errors.Is(err, errSick) || !strings.Contains(out, "fail  agent") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestUninstallKilled uninstalls while a container is on snapshots of a program that was
// killed.
func TestUninstallKilled(t *testing.T) {
	s := newSite(t)
	data, _, _ := files(t, 1, 1<<20)
	ref := s.push("app:v1", true, shell(t), data)
	c := s.Create("one", s.Pull(ref), nil, "/bin/sleep", "1000")
	c.Start()
	s.kill()
	places := []string{
		"uninstall", "--dir", s.dir, "--socket", s.socket(), "--containerd", s.Address, "--containerd-config", s.ConfigPath(),
		"--containerd-drop-in", filepath.Join(s.dir, "conf.d", "brisk.toml"),
		"--containerd-program", containerdtest.Program(t, "containerd"), "--systemd=false",
	}
	if _, err := command(t, places...); err == nil || !strings.Contains(err.Error(), "one of "+ref) {
		t.Errorf("the container is not listed: %v", err)
	}
	out, err := command(t, append(places, "--force")...)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := s.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	containerdtest.Await(t, "containerd", containerdtest.Timeout, func() bool {
		serving, err := s.Client.IsServing(t.Context())
		return err == nil && serving
	})
	s.Snapshotter = "overlayfs"
	c = s.Create("two", s.Pull(ref), nil, "/bin/sh", "-c", "echo works")
	c.Start()
	if code, out := c.Wait(); code != 0 || out != "works\n" {
		t.Errorf("code %d, %q", code, out)
	}
	c.Remove()
	s.RemoveImage(ref)
}

// TestInstallCommands installs for a containerd that does not run.
func TestInstallCommands(t *testing.T) {
	dir := t.TempDir()
	main := filepath.Join(dir, "config.toml")
	const before = "# ours\nversion = 2\n"
	if err := os.WriteFile(main, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	places := []string{
		"--config", filepath.Join(dir, "node.yaml"), "--dir", filepath.Join(dir, "state"), "--containerd", filepath.Join(dir, "none"),
		"--containerd-config", main, "--containerd-drop-in", filepath.Join(dir, "conf.d", "brisk.toml"), "--containerd-version", "1.7.29",
		"--containerd-program", filepath.Join(dir, "containerd"), "--systemd=false",
	}
	run := func(args ...string) (string, error) { return command(t, append(args, places...)...) }
	if out, err := run("install", "--dry-run"); err != nil || !strings.Contains(out, "+ snapshotter = 'brisk'") {
		t.Errorf("%v: %s", err, out)
	}
	for range 2 {
		if _, err := run("install"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := nodeconfig.Load(filepath.Join(dir, "node.yaml")); err != nil {
		t.Error(err)
	}
	if _, err := run("install", "--socket", "/elsewhere"); err == nil || !strings.Contains(err.Error(), "change the file") {
		t.Errorf("flags that the service would not have: %v", err)
	}
	if _, err := run("uninstall"); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("without containerd: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "node.yaml"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("uninstall", "--force"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if content, err := os.ReadFile(main); err != nil || string(content) != before {
		t.Errorf("%q, %v", content, err)
	}
}

// TestNotify checks what the service manager is told.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	var lc net.ListenConfig
	conn, err := lc.ListenPacket(t.Context(), "unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() //nolint:errcheck // read only
	t.Setenv("NOTIFY_SOCKET", path)
	require.FUSE(t)
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "node"), logs: &logs{}}
	s.stop = s.run()
	if err := conn.SetReadDeadline(time.Now().Add(containerdtest.Timeout)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, _, err := conn.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	s.stop()
	n, _, err = conn.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "STOPPING=1" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
