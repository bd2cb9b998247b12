package record_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/chroot"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node/record"
	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// TestMain also plays the part of the binary that becomes the program.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == chroot.InitCommand {
		fmt.Fprintln(os.Stderr, chroot.Init(os.Args[2]))
		os.Exit(1)
	}
	if code, done := mountns.Rerun(); done {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m, registrytest.LeakOptions()...)
}

const dataSize = 1 << 20

// fixture is an image of busybox and two files in a registry.
type fixture struct {
	client *registry.Client
	image  string
	dir    string
}

func newFixture(t *testing.T, configure func(*v1.Config)) fixture {
	t.Helper()
	require.FUSE(t)
	busybox, err := os.ReadFile(require.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	data := registrytest.Files(5, 2, dataSize)
	var content [][]byte
	for _, f := range data {
		if len(f.Data) > 0 {
			content = append(content, f.Data)
		}
	}
	reg := registrytest.New(t, registrytest.Config{})
	reg.Push(t, "app:v1", registrytest.Image{Config: configure, Layers: []registrytest.Layer{
		{Tar: registrytest.Tar(t, registrytest.File{Name: "bin/"}, registrytest.File{Name: "bin/busybox", Data: busybox, Mode: 0o755}), Level: 1},
		{Tar: registrytest.Tar(t, registrytest.File{Name: "etc/"}, registrytest.File{Name: "data/"},
			registrytest.File{Name: "etc/passwd", Data: []byte("root:x:0:0::/:\nweb:x:33:33::/:\n")},
			registrytest.File{Name: "data/used", Data: content[0]}, registrytest.File{Name: "data/unused", Data: content[1]}), Level: 1},
	}})
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	ref := reg.Ref(t, "app:v1")
	if _, err := convert.Convert(t.Context(), client, ref, convert.Config{}); err != nil {
		t.Fatal(err)
	}
	f := fixture{client: client, image: ref.String(), dir: t.TempDir()}
	t.Cleanup(func() {
		mountns.RequireUnused(t, f.dir)
		if left, err := os.ReadDir(f.dir); err != nil || len(left) > 0 {
			t.Errorf("%v is left: %v", left, err)
		}
	})
	return f
}

// config returns how to record a script of busybox.
func (f fixture) config(t *testing.T, output *bytes.Buffer, script string, until ...string) record.Config {
	t.Helper()
	cfg := record.Config{
		Registry: f.client, Image: f.image, Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, Dir: f.dir, Output: output,
		Until: record.DefaultUntil(), Log: slog.New(slog.DiscardHandler),
	}
	if script != "" {
		cfg.Args = []string{"busybox", "sh", "-c", script}
	}
	if len(until) > 0 {
		cfg.Until = nil
	}
	for _, text := range until {
		u, err := record.ParseUntil(text)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Until = append(cfg.Until, u)
	}
	return cfg
}

// requireTrace checks which files a recording has read, and how much of one of them.
func (f fixture) requireTrace(t *testing.T, got *record.Recording, used int64, unused bool) {
	t.Helper()
	found, err := f.client.FindArtifact(t.Context(), got.Image)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := f.client.LayerIndexes(t.Context(), got.Image, found)
	if err != nil {
		t.Fatal(err)
	}
	read, err := files.FileReads(got.File.Trace, layers)
	if err != nil {
		t.Fatal(err)
	}
	bytesOf := make(map[string]int64)
	for _, named := range read {
		bytesOf[named.Path] += named.Bytes
	}
	if bytesOf["bin/busybox"] < 100<<10 || bytesOf["data/used"] != used {
		t.Errorf("of the files that the program has read there are %v", bytesOf)
	}
	// The kernel reads whole pages, of which the last one of a file is also the next one's.
	if has := bytesOf["data/unused"] > 4096; has != unused {
		t.Errorf("of the file that it has not read: %v", bytesOf)
	}
	t.Logf("%d bytes until %s in %s: %v", got.File.Trace.Bytes(), got.Ended, got.Took, bytesOf)
}

func TestRecordUntilPort(t *testing.T) {
	f := newFixture(t, nil)
	for _, backend := range lazyfs.Backends() {
		t.Run(string(backend), func(t *testing.T) {
			port := strconv.Itoa(freePort(t))
			var output bytes.Buffer
			cfg := f.config(t, &output, "busybox cat /data/used | busybox wc -c; busybox httpd -f -p 127.0.0.1:"+port+" & busybox sleep 60; busybox cat /data/unused",
				"port:"+port, "1m")
			cfg.Backend = backend
			got, err := record.Run(t.Context(), cfg)
			if err != nil {
				t.Fatalf("%v\n%s", err, output.String())
			}
			if got.Ended.String() != "port:"+port || !strings.Contains(output.String(), strconv.Itoa(dataSize)) {
				t.Errorf("ended by %s, output %q", got.Ended, output.String())
			}
			if !strings.HasPrefix(got.File.Command, "busybox sh -c 'busybox cat /data/used |") {
				t.Errorf("command %q", got.File.Command)
			}
			f.requireTrace(t, got, dataSize, false)
			if _, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", "127.0.0.1:"+port); err == nil {
				t.Error("the program still listens")
			}
		})
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // nobody connects
	address, ok := listener.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("no TCP address")
	}
	return address.Port
}

func TestRecordUntilLog(t *testing.T) {
	f := newFixture(t, nil)
	var output bytes.Buffer
	got, err := record.Run(t.Context(), f.config(t, &output,
		"echo warming up; busybox head -c 262144 /data/used >/dev/null; echo Server is ready >&2; busybox sleep 60", "log:is ready$", "exit", "1m"))
	if err != nil {
		t.Fatalf("%v\n%s", err, output.String())
	}
	if got.Ended.String() != "log:is ready$" {
		t.Errorf("ended by %s", got.Ended)
	}
	f.requireTrace(t, got, usedOf(t, f, got), false)
	if used := usedOf(t, f, got); used < 256<<10 || used > 512<<10 {
		t.Errorf("%d bytes of a file are in the trace, of which 256 KiB were read", used)
	}
}

// usedOf returns how much of data/used a recording has.
func usedOf(t *testing.T, f fixture, got *record.Recording) int64 {
	t.Helper()
	found, err := f.client.FindArtifact(t.Context(), got.Image)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := f.client.LayerIndexes(t.Context(), got.Image, found)
	if err != nil {
		t.Fatal(err)
	}
	read, err := files.FileReads(got.File.Trace, layers)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(read, func(n files.FileRead) bool { return n.Path == "data/used" })
	if i < 0 {
		return 0
	}
	return read[i].Bytes
}

// TestRecordAsConfigured runs an image as its configuration says: entrypoint, environment,
// directory and user.
func TestRecordAsConfigured(t *testing.T) {
	f := newFixture(t, func(c *v1.Config) {
		c.Entrypoint, c.Cmd = []string{"/bin/busybox", "sh", "-c"}, []string{`echo $(busybox id -u) $(busybox pwd) $A $B; busybox cat used >/dev/null`}
		c.Env, c.WorkingDir, c.User = []string{"A=1"}, "/data", "web"
	})
	var output bytes.Buffer
	cfg := f.config(t, &output, "")
	cfg.Env, cfg.Isolated = []string{"B=2"}, true
	got, err := record.Run(t.Context(), cfg)
	if err != nil {
		t.Fatalf("%v\n%s", err, output.String())
	}
	if output.String() != "33 /data 1 2\n" || got.Ended.String() != "exit" {
		t.Errorf("ended by %s, output %q", got.Ended, output.String())
	}
	f.requireTrace(t, got, dataSize, false)
}

func TestRecordFails(t *testing.T) {
	f := newFixture(t, nil)
	for name, test := range map[string]struct {
		script string
		until  []string
		want   string
	}{
		"program fails":     {"exit 3", nil, "exit status 3"},
		"ends before":       {"true", []string{"port:1", "1m"}, "before its start was over"},
		"nothing to run":    {"", nil, "no program given"},
		"other processes":   {"busybox sleep 2", []string{"port", "exit"}, ""}, // ports of others do not count
		"killed in the end": {"while true; do busybox sleep 1; done", []string{"1s"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close() //nolint:errcheck // nobody connects
			var output bytes.Buffer
			got, err := record.Run(t.Context(), f.config(t, &output, test.script, test.until...))
			switch {
			case test.want != "":
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v, want an error that says %q; output %q", err, test.want, output.String())
				}
			case err != nil:
				t.Error(err)
			case got.Ended.String() == "port":
				t.Errorf("ended by %s", got.Ended)
			}
		})
	}
}

func TestRecordIsInterrupted(t *testing.T) {
	f := newFixture(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var output bytes.Buffer
	if _, err := record.Run(ctx, f.config(t, &output, "busybox sleep 4711 & busybox sleep 4711", "1m")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want a deadline", err)
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range commands {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte("sleep\x004711")) {
			t.Errorf("%s runs on: %q", path, line)
		}
	}
}

func TestParseUntil(t *testing.T) {
	t.Parallel()
	for _, good := range []string{"exit", "port", "port:8080", "log:^ready [0-9]+:", "1m30s"} {
		if u, err := record.ParseUntil(good); err != nil || u.String() != good {
			t.Errorf("%q: %q, %v", good, u, err)
		}
	}
	for _, bad := range []string{"", "port:0", "port:x", "port:70000", "log:", "log:(", "30", "-1s", "1h", "never"} {
		if u, err := record.ParseUntil(bad); err == nil {
			t.Errorf("%q was read as %s", bad, u)
		}
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"nginx -g 'daemon off;'":         {"nginx", "-g", "daemon off;"},
		`sh -c 'echo '\''x'\'''`:         {"sh", "-c", "echo 'x'"},
		"a ''":                           {"a", ""},
		"a " + strings.Repeat("x", 4094): {"a", strings.Repeat("x", 5000)},
	} {
		if got := record.CommandLine(args); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
