package mkimage

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/brisk-project/brisk/test/require"
)

// toolchain makes a directory that is laid out like a Go toolchain. Its go command is the one of
// this machine; the real directory takes minutes to compress under the race detector.
func toolchain(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath(require.Tool(t, "go"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"VERSION": "go", "go.env": "GOPROXY=off\n", "bin/go": "#!/bin/sh\nexec " + program + " \"$@\"\n", "pkg/include/a.h": "",
		"src/fmt/print.go": "package fmt\n", "src/cmd/go/main.go": "package main\n", "lib/time/zone": "zone", "doc/spec": "", "misc/a": "",
		"api/go1.txt": "api", "test/a.go": "package test\n",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// members returns the names in a layer.
func members(t *testing.T, layer v1.Layer) []string {
	t.Helper()
	stream, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close() //nolint:errcheck // read only
	var names []string
	for r := tar.NewReader(stream); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
}

func TestGoToolchain(t *testing.T) {
	if root, err := GoRoot(t.Context()); err != nil || root == "" {
		t.Errorf("the toolchain of this machine is in %q: %v", root, err)
	}
	goroot := toolchain(t)
	for _, small := range []bool{false, true} {
		image, err := GoToolchain(t.Context(), goroot, t.TempDir(), small)
		if err != nil {
			t.Fatal(err)
		}
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		if len(layers) != 5 {
			t.Errorf("the demo image has %d layers", len(layers))
		}
		var names []string
		for i, layer := range layers {
			if err := validate.Layer(layer); err != nil {
				t.Errorf("layer %d: %v", i, err)
			}
			names = append(names, members(t, layer)...)
		}
		for name, want := range map[string]bool{
			"app/entrypoint": true, "app/hello/main.go": true, "etc/passwd": true, "usr/local/go/bin/go": true, "usr/local/go/src/fmt/print.go": true,
			"usr/local/go/test/a.go": true, "usr/local/go/.wh.test": true, "usr/local/go/.wh.api": true, "usr/local/go/src/cmd/go/main.go": !small,
		} {
			if slices.Contains(names, name) != want {
				t.Errorf("small %v: %s is in the image: %v", small, name, !want)
			}
		}
		file, err := image.ConfigFile()
		if err != nil || !slices.Equal(file.Config.Entrypoint, []string{"/app/entrypoint"}) {
			t.Errorf("the configuration is %+v: %v", file, err)
		}
	}
}
