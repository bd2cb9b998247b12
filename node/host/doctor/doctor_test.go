package doctor_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/agent"
	nodeconfig "github.com/brisk-project/brisk/node/config"
	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/node/host/containerdconfig"
	"github.com/brisk-project/brisk/node/host/doctor"
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

// config is that of a node in a directory.
func config(t *testing.T, dir string) doctor.Config {
	t.Helper()
	cfg := nodeconfig.Default()
	cfg.Directory, cfg.Socket = dir, filepath.Join(dir, "s.sock")
	cfg.Containerd.Address = filepath.Join(dir, "none.sock")
	cfg.Cache.Size, cfg.Cache.MinFree = 64<<20, 0
	return doctor.Config{
		Node: cfg, Containerd: filepath.Join(dir, "containerd"),
		Target: containerdconfig.Target{
			Name: containerdtest.Snapshotter, Socket: cfg.Socket, Dir: dir, Main: filepath.Join(dir, "config.toml"),
		},
	}
}

// levels returns the worst finding of each check.
func levels(t *testing.T, findings []doctor.Finding) map[string]doctor.Level {
	t.Helper()
	order := []doctor.Level{doctor.OK, doctor.Warn, doctor.Fail}
	worst := make(map[string]doctor.Level)
	for _, f := range findings {
		t.Log(f.Level, f.Check, f.Found, "->", f.Advice)
		if f.Found == "" {
			t.Errorf("%s: an empty finding", f.Check)
		}
		if slices.Index(order, f.Level) >= slices.Index(order, worst[f.Check]) {
			worst[f.Check] = f.Level
		}
	}
	return worst
}

func TestHealthy(t *testing.T) {
	require.FUSE(t)
	dir := t.TempDir()
	cfg := config(t, dir)
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	a, err := agent.New(t.Context(), agent.Config{
		Node: node.Config{
			Dir: dir, CacheBytes: 64 << 20, MemoryBytes: 8 << 20, ReadTimeout: 5 * time.Second, Registry: client,
			Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		},
		Socket: cfg.Node.Socket,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	if err := containerdapi.CheckSnapshotter(t.Context(), cfg.Node.Socket, true); err != nil {
		t.Fatal(err)
	}
	if err := a.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := containerdtest.Start(t, containerdtest.Config{Socket: cfg.Node.Socket, Root: dir, Transfer: true})
	cfg.Node.Containerd.Address, cfg.Target.Main = d.Address, d.ConfigPath()
	cfg.Containerd = containerdtest.Program(t, "containerd")
	findings := doctor.Run(t.Context(), cfg)
	for check, level := range levels(t, findings) {
		if level == doctor.Fail {
			t.Errorf("%s fails", check)
		}
	}
	if doctor.Failed(findings) {
		t.Error("something fails")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestNothingThere(t *testing.T) {
	require.FUSE(t)
	dir := filepath.Join(t.TempDir(), "not", "there")
	cfg := config(t, dir)
	cfg.Node.Cache.MinFree = 1 << 60
	findings := doctor.Run(t.Context(), cfg)
	worst := levels(t, findings)
	for check, want := range map[string]doctor.Level{
		"kernel": doctor.OK, "fuse": doctor.OK, "mounts": doctor.OK, "overlayfs": doctor.OK, "disk": doctor.Fail,
		"containerd": doctor.Fail, "containerd-config": doctor.Warn, "agent": doctor.Fail,
	} {
		if worst[check] != want && (want == doctor.Fail || worst[check] == doctor.Fail) {
			t.Errorf("%s is %s", check, worst[check])
		}
	}
	for _, f := range findings {
		if f.Level == doctor.Fail && f.Advice == "" {
			t.Errorf("%s: no advice on %q", f.Check, f.Found)
		}
	}
	if !doctor.Failed(findings) {
		t.Error("nothing fails")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was made")
	}
	left, err := os.ReadDir(filepath.Dir(filepath.Dir(dir)))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestMemory(t *testing.T) {
	require.Root(t)
	cfg := config(t, "/run/brisk-doctor")
	for _, f := range doctor.Run(t.Context(), cfg) {
		if f.Check == "disk" && strings.Contains(f.Found, "in memory") && f.Level == doctor.Warn {
			return
		}
	}
	t.Error("a cache in memory is not found")
}

func TestClock(t *testing.T) {
	require.FUSE(t)
	for skew, want := range map[time.Duration]doctor.Level{0: doctor.OK, -20 * time.Second: doctor.Warn, time.Hour: doctor.Fail} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(skew).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusUnauthorized)
		}))
		cfg := config(t, t.TempDir())
		cfg.Registry = strings.TrimPrefix(server.URL, "http://")
		if got := levels(t, doctor.Run(t.Context(), cfg))["clock"]; got != want {
			t.Errorf("%s: %s", skew, got)
		}
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	}
}

// What the scrubber has found is told, also while no agent runs.
func TestSuspectDisk(t *testing.T) {
	require.FUSE(t)
	dir := t.TempDir()
	for state, want := range map[string]struct {
		level doctor.Level
		found string
	}{
		"": {doctor.OK, "no block"},
		`{"version":1,"suspect":"block 3 of layer abc is corrupt again"}`:                            {doctor.Fail, "block 3 of layer abc"},
		`{"version":1,"bad":[{"last":"` + time.Now().Format(time.RFC3339) + `"}]}`:                   {doctor.Warn, "1 blocks"},
		`{"version":1,"bad":[{"last":"` + time.Now().AddDate(0, -2, 0).Format(time.RFC3339) + `"}]}`: {doctor.OK, "no block"},
		`{"version":1`: {doctor.Warn, "decoding"},
	} {
		path := filepath.Join(dir, node.ScrubStateFile)
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if state != "" {
			if err := os.WriteFile(path, []byte(state), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		seen := false
		for _, f := range doctor.Run(t.Context(), config(t, dir)) {
			if f.Check != "bit-rot" {
				continue
			}
			seen = true
			if f.Level != want.level || !strings.Contains(f.Found, want.found) {
				t.Errorf("%s: %s, %q; want %s, %q", state, f.Level, f.Found, want.level, want.found)
			}
		}
		if !seen {
			t.Errorf("%s: nothing is said of bit rot", state)
		}
	}
}
