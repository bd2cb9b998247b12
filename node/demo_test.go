package node_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/internal/mkimage"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// toolchain makes the image that the demo runs, a Go toolchain of 200 MB. Under the race
// detector, where that would take minutes, it takes a part of the same files.
func toolchain(t *testing.T, goroot, scratch string) (v1.Image, error) {
	t.Helper()
	if !underRace {
		return mkimage.GoToolchain(t.Context(), goroot, scratch, true)
	}
	tree := func(name string) mkimage.Tree { return mkimage.Tree{Base: goroot, Path: name, To: "usr/local/go"} }
	return mkimage.Build(t.Context(), scratch, []mkimage.Layer{
		{Dirs: []string{"dev", "proc", "tmp"}, Files: map[string][]byte{"etc/passwd": []byte("root:x:0:0:root:/root:/bin/false\n")}},
		{Trees: []mkimage.Tree{tree("VERSION"), tree("bin/gofmt"), tree("src/runtime"), tree("src/net/http")}},
		{Trees: []mkimage.Tree{tree("src/os")}, Whiteouts: []string{"usr/local/go/src/net/http/testdata", "usr/local/go/src/runtime/testdata"}},
	}, v1.Config{})
}

// TestDemoImageEqualsUnpacked mounts the image that the demo runs and reads all of it.
func TestDemoImageEqualsUnpacked(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	require.Tool(t, "go")
	goroot, err := mkimage.GoRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir()
	image, err := toolchain(t, goroot, scratch)
	if err != nil {
		t.Fatal(err)
	}
	reg := registrytest.New(t, registrytest.Config{})
	ref := reg.Ref(t, "demo/go:v1")
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Convert(t.Context(), newClient(t), ref, convert.Config{}); err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var tars [][]byte
	for i := range layers {
		tar, err := os.ReadFile(filepath.Join(scratch, fmt.Sprintf("layer%d.tar", i)))
		if err != nil {
			t.Fatal(err)
		}
		tars = append(tars, tar)
	}
	want, err := fstree.Unpack(t.Context(), fstree.TempDir(t), tars)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d entries in %d layers", len(want.Entries), len(tars))
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		n, _ := start(t, node.Config{Backend: backend})
		m := mountWith(t, n, node.MountRequest{Image: ref.String()})
		got, err := fstree.Take(m.Status().Target)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range fstree.Diff(want, got) {
			t.Error(line)
		}
		if err := m.Unmount(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
