package main

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/node/waterfall"
)

// TestWhy starts a container that reads a file, and asks what it waited for: while it
// runs, and after the image has been unmounted.
func TestWhy(t *testing.T) {
	t.Parallel()
	s := newSite(t, "--mode", "lazy")
	layer, path, sum := files(t, 11, 3<<20)
	ref := s.push("why:v1", true, shell(t), layer)
	image := s.Pull(ref)
	c := s.Create("why", image, nil, "/bin/sleep", "1000")
	c.Start()
	if code, out := c.Exec("sum", "/bin/sha256sum", path); code != 0 || out != sum {
		t.Fatalf("code %d, %q instead of %q", code, out, sum)
	}
	running := s.requireStart(ref, path)
	c.Remove()
	if removed := s.requireStart(ref, path); len(removed.Reads) != len(running.Reads) {
		t.Errorf("%d reads, %d while the container was running", len(removed.Reads), len(running.Reads))
	}

	text, err := command(t, "why", ref, "--dir", s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"resolve the image", "mount", "read waited: " + path + " at 0", "request: manifest", "status 206"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	list, err := command(t, "why", "--dir", s.dir)
	if err != nil || strings.Count(list, "\n") != 2 || !strings.Contains(list, ref) {
		t.Errorf("%v, list of starts:\n%s", err, list)
	}
	for _, name := range []string{"start.svg", "start.html"} {
		picture := filepath.Join(t.TempDir(), name)
		if _, err := command(t, "why", ref, "--dir", s.dir, "--draw", picture); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(filepath.Clean(picture))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(content), path+" at 0") {
			t.Errorf("%s does not show the read", name)
		}
		if name == "start.svg" && xml.Unmarshal(content, new(struct{})) != nil {
			t.Error("the picture is no XML")
		}
	}
	if _, err := command(t, "why", ref, "--dir", s.dir, "--draw", "start.png"); err == nil {
		t.Error("a picture of a kind that cannot be drawn")
	}
	if _, err := command(t, "why", "registry.example/unknown:v1", "--dir", s.dir); err == nil || !strings.Contains(err.Error(), "unknown:v1") {
		t.Errorf("of an unknown image: %v", err)
	}
	// It has the names of images, which are for root only.
	if info, err := os.Stat(s.dir); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others can reach the socket: %v, %v", info.Mode(), err)
	}
}

// requireStart checks what is recorded of the start of an image in which a file was read.
func (s *site) requireStart(ref, path string) (start waterfall.Start) {
	s.t.Helper()
	out, err := command(s.t, "why", ref, "--dir", s.dir, "--output", "json")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &start); err != nil {
		s.t.Fatal(err)
	}
	var phases []string
	for _, p := range start.Phases {
		phases = append(phases, p.Name)
		if p.At < 0 || p.Duration <= 0 {
			s.t.Errorf("phase %+v", p)
		}
	}
	for _, want := range []string{"resolve the image", "find its index", "fetch layer indexes", "open layer indexes", "build rootfs metadata", "mount"} {
		if strings.Count(strings.Join(phases, "\n"), want) != 1 {
			s.t.Errorf("phases %q, want one %q", phases, want)
		}
	}
	var bytes, ranges int64
	for _, r := range start.Requests {
		if r.At < 0 || r.FirstByte <= 0 || r.Duration < r.FirstByte {
			s.t.Errorf("request %+v", r)
		}
		if r.Range != "" && r.Status == 206 && r.Bytes > 0 {
			ranges++
		}
		bytes += r.Bytes
	}
	if ranges == 0 || bytes < 2<<20 { // compressed
		s.t.Errorf("%d requests for ranges, %d bytes; the file has %d", ranges, bytes, 3<<20)
	}
	var read int64
	for _, r := range start.Reads {
		if "/"+r.File == path && r.From == waterfall.Registry {
			read += r.Length
		}
	}
	// The last page of a file ends with what follows in the layer.
	if read < 3<<20-4096 || read > 3<<20+1<<20 {
		s.t.Errorf("%d bytes of %s were read from the registry, want %d", read, path, 3<<20)
	}
	return start
}
