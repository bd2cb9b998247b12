package main

import (
	"bufio"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// pushBusybox pushes an image that runs busybox.
func pushBusybox(t *testing.T, reg *registrytest.Registry, ref string, command ...string) string {
	t.Helper()
	busybox, err := os.ReadFile(require.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	reg.Push(t, ref, registrytest.Image{
		Config: func(c *v1.Config) { c.Entrypoint = command },
		Layers: []registrytest.Layer{{Tar: registrytest.Tar(t, registrytest.File{Name: "bin/"}, registrytest.File{Name: "bin/busybox", Data: busybox, Mode: 0o755}), Level: 1}},
	})
	image := reg.Ref(t, ref).String()
	// With a prediction hardly a read waits, and what is recorded of one shows little.
	run(t, "convert", "--predict=false", image)
	return image
}

func TestTraceRecordsAndPushes(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	reg := registrytest.New(t, registrytest.Config{Referrers: true})
	s := newSite(t)
	image := pushBusybox(t, reg, "app:v1", "busybox", "httpd", "-f", "-p", "127.0.0.1:"+port)
	file := filepath.Join(s.dir, "app.trace")
	page := filepath.Join(s.dir, "start.html")
	out := run(t, "trace", "--dir", s.node, "--until", "port:"+port, "--until", "1m", "-o", file, "--draw", page, "--push", image)
	requireOutput(t, out, "recorded", image, "until port:"+port, "busybox httpd -f -p 127.0.0.1:"+port, "pushed sha256:")
	drawn, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(drawn), "/bin/busybox at") || !strings.Contains(string(drawn), "request: blob ") || !strings.Contains(string(drawn), "read waited") {
		t.Errorf("the picture of the start: %v\n%.3000s", err, drawn)
	}
	// The trace of another command is kept beside it.
	run(t, "trace", "--dir", s.node, "--net", "none", "--push", image, "--", "busybox", "echo", "hello world")
	encoded, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := startup.ParseFile(encoded)
	if err != nil || recorded.Command != "busybox httpd -f -p 127.0.0.1:"+port || recorded.Trace.Bytes() < 100<<10 {
		t.Errorf("%d bytes of %q: %v", recorded.Trace.Bytes(), recorded.Command, err)
	}
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	found, err := openIndexed(t.Context(), client, image, v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, trace := range found.artifact.Startup.Traces {
		commands = append(commands, trace.Command)
	}
	if got, want := strings.Join(commands, "\n"), "busybox echo 'hello world'\n"+recorded.Command; got != want {
		t.Errorf("pushed traces of\n%s\nwant\n%s", got, want)
	}
	out = run(t, "trace", "--dir", s.node, "-o", "-", image, "--", "busybox", "true")
	if piped, err := startup.Parse([]byte(out)); err != nil || len(piped) == 0 {
		t.Errorf("on standard output: %v", err)
	}
	if left, err := os.ReadDir(s.node); err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
}

// TestTraceIsInterrupted ends the command in the middle of a recording.
func TestTraceIsInterrupted(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	s := newSite(t)
	image := pushBusybox(t, reg, "app:v1", "busybox", "sh", "-c", "echo running; while true; do busybox sleep 1; done")
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := program(t, "trace", "--dir", s.node, "--until", "5m", "-o", filepath.Join(s.dir, "trace"), image)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(stderr)
		if line, err := lines.ReadString('\n'); err != nil || line != "running\n" {
			t.Errorf("output %q: %v", line, err)
		}
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(lines)
		if err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("an interrupted recording is a success")
		}
		if left, err := os.ReadDir(s.node); err != nil || len(left) > 0 {
			t.Errorf("%v is left: %v\n%s", left, err, rest)
		}
		if _, err := os.Stat(filepath.Join(s.dir, "trace")); err == nil {
			t.Error("a trace was written")
		}
	}
}

func TestTraceRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		"-o FILE or --push": {"image"},
		"use host or none":  {"-o", "f", "--net", "bridge", "image"},
		"--until":           {"-o", "f", "--until", "sometime", "image"},
		`after "--"`:        {"-o", "f", "image", "command"},
		"--platform":        {"-o", "f", "--platform", "a/b/c/d", "image"},
	} {
		got := finish(t, program(t, append([]string{"trace"}, args...)...))
		if got.code != 1 || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: exit code %d, %q, want %q", strconv.Quote(strings.Join(args, " ")), got.code, got.stderr, want)
		}
	}
}
