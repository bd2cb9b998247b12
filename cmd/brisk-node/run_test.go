package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// shell is a layer with a shell and its tools.
func shell(t *testing.T) registrytest.Layer {
	t.Helper()
	program, err := os.ReadFile(require.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	entries := []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))},
	}
	for _, name := range []string{"sh", "cat", "sha256sum", "sleep", "rm", "ls", "stat", "mkdir"} {
		entries = append(entries, &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"})
	}
	for _, dir := range []string{"proc/", "sys/", "dev/", "tmp/", "run/"} {
		entries = append(entries, &tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
	}
	for _, entry := range entries {
		if err := w.WriteHeader(entry); err != nil {
			t.Fatal(err)
		}
		if entry.Typeflag == tar.TypeReg {
			if _, err := w.Write(program); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return registrytest.Layer{Tar: buf.Bytes(), Level: 1}
}

// files is a layer with one file, and the line that sha256sum prints of it.
func files(t *testing.T, seed uint64, size int) (layer registrytest.Layer, path, sum string) {
	t.Helper()
	data := registrytest.Files(seed, 1, size)[1].Data
	name := fmt.Sprintf("file-%d", seed)
	layer = registrytest.Layer{Level: 1, Tar: registrytest.Tar(t, registrytest.File{Name: name, Data: data})}
	return layer, "/" + name, fmt.Sprintf("%x  /%s\n", sha256.Sum256(data), name)
}

func TestLazyContainer(t *testing.T) {
	s := newSite(t)
	middle, middlePath, middleSum := files(t, 1, 3<<20)
	top, topPath, topSum := files(t, 2, 1<<20)
	ref := s.push("app:v1", true, shell(t), middle, top)

	image := s.Pull(ref)
	for _, r := range s.reg.BlobRequests() {
		if r.Bytes > 1<<20 && r.Range == "" {
			t.Errorf("a layer was downloaded: %+v", r)
		}
	}
	c := s.Create("one", image, nil, "/bin/sleep", "1000")
	c.Start()
	for path, want := range map[string]string{middlePath: middleSum, topPath: topSum} {
		if code, out := c.Exec("sum-"+path[1:], "/bin/sha256sum", path); code != 0 || out != want {
			t.Errorf("code %d, %q instead of %q", code, out, want)
		}
	}
	if code, out := c.Exec("write", "/bin/sh", "-c", "echo new > /new && rm "+topPath+" && cat /new"); code != 0 || out != "new\n" {
		t.Errorf("code %d, %q", code, out)
	}
	if got := s.mounts(); len(got) != 2 { // the flat files and the root
		t.Errorf("mounts %q", got)
	}
	c.Remove()
	s.RemoveImage(ref)
	s.requireEmpty()
	if len(s.logs.lines("loaded when they are read", "app:v1")) != 1 {
		t.Error("the log does not say that the image is lazy")
	}
	if got := s.logs.lines("reason="); len(got) != 0 {
		t.Errorf("%s", strings.Join(got, ""))
	}
}
