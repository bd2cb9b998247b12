package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/registrytest"
)

// writeFile writes a file for the program to read, and returns its path.
func writeFile(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// readTrace reads a trace that the program has written.
func readTrace(t *testing.T, path string) startup.File {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := startup.ParseFile(content)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestTrace makes traces of lists of files, merges them, pushes the result, shows it and writes
// it to a file again.
func TestTrace(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	run(t, "convert", image)
	if got := finish(t, program(t, "trace", "show", image)); got.code == 0 || !strings.Contains(got.stderr, "no trace in the registry") {
		t.Errorf("before there is one: %+v", got)
	}
	dir := t.TempDir()
	for i, name := range []string{filePath("2"), filePath("1")} {
		list := writeFile(t, "list", []byte("/"+name+"\n{\"path\":\"none\"}\n"))
		got := finish(t, program(t, "trace", "import", image, list, "--command", "app", "-o", filepath.Join(dir, string(rune('a'+i)))))
		if got.code != 0 || !strings.Contains(got.stderr, "has no file /none") {
			t.Errorf("import of a list: %+v", got)
		}
	}
	both := filepath.Join(dir, "both")
	run(t, "trace", "merge", filepath.Join(dir, "a"), filepath.Join(dir, "b"), "-o", both)
	requireOutput(t, run(t, "trace", "push", image, both), "start-up artifact sha256:")
	requireOutput(t, run(t, "trace", "show", image), "recorded, app", filePath("1"), filePath("2"), "1.0 MiB")
	var shown shownTrace
	if err := json.Unmarshal([]byte(run(t, "trace", "show", image, "-o", "json")), &shown); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, f := range shown.Files {
		if f.Path != "" && f.Bytes != 1<<20 {
			t.Errorf("file %+v, want all of it", f)
		}
		if f.Path != "" {
			order = append(order, f.Path)
		}
	}
	if strings.Join(order, " ") != filePath("2")+" "+filePath("1") {
		t.Errorf("files are shown in the order %v", order)
	}
	requireOutput(t, run(t, "trace", "show", image, "--all"), "order", "/"+filePath("1")+" at 0 (", "layer 0 at ")
	for _, name := range []string{"order.svg", "order.html"} {
		run(t, "trace", "show", image, "--draw", filepath.Join(dir, name))
		if drawn, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.Contains(string(drawn), "<title>/"+filePath("2")+" at 0 (") {
			t.Errorf("%s: %v, %.300s", name, err, drawn)
		}
	}
	requireOutput(t, run(t, "trace", "push", image, both, "--bundle"), "  bundle sha256:", "start-up artifact sha256:")
	exported := filepath.Join(dir, "exported")
	run(t, "trace", "export", image, "-o", exported)
	if got, want := readTrace(t, exported), readTrace(t, both); got.Command != "app" || got.Trace.Bytes() != want.Trace.Bytes() {
		t.Errorf("%d bytes were exported, want %d", got.Trace.Bytes(), want.Trace.Bytes())
	}
	requireOutput(t, run(t, "trace", "show", exported), "recorded, app", "LAYER", "sha256:", "1.0 MiB")
	foreign, err := startup.Trace{{Layer: block.Sum([]byte("other")), Length: 4096}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"push", image, writeFile(t, "foreign", foreign)},
		{"push", image, writeFile(t, "list", []byte("/none"))},
		{"push", image, writeFile(t, "damaged", foreign[:len(foreign)-2])},
		{"show", image, writeFile(t, "foreign", foreign)},
		{"merge", writeFile(t, "damaged", foreign[:10])},
		{"export", image},
		{"show", image, "--draw", "order.png"},
		{"show", both, "--all"},
	} {
		if got := finish(t, program(t, append([]string{"trace"}, args...)...)); got.code == 0 || got.stderr == "" {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

// TestTraceOfNode gives a running node a trace, and asks it for it.
func TestTraceOfNode(t *testing.T) {
	s := newSite(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	run(t, "convert", image)
	list := writeFile(t, "list", []byte(filePath("1")))
	if got := finish(t, program(t, "trace", "import", image, list, "--dir", s.node)); got.code == 0 || !strings.Contains(got.stderr, node.ErrNoNode.Error()) {
		t.Errorf("without a node: %+v", got)
	}
	cmd := foreground(t, "--dir", s.node, "--no-fill", image, s.target(t, "mnt"))
	exported := filepath.Join(s.dir, "exported")
	if got := finish(t, program(t, "trace", "export", image, "--dir", s.node, "-o", exported)); got.code == 0 || !strings.Contains(got.stderr, "has no trace") {
		t.Errorf("before there is one: %+v", got)
	}
	requireOutput(t, run(t, "trace", "import", image, list, "--dir", s.node), "added a trace of 1.0 MiB")
	run(t, "trace", "export", image, "--dir", s.node, "-o", exported)
	if n := readTrace(t, exported).Trace.Bytes(); n < 1<<20 || n > 1<<20+8192 {
		t.Errorf("the trace of the node has %d bytes", n)
	}
	run(t, "umount", s.target(t, "mnt"), "--dir", s.node)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
