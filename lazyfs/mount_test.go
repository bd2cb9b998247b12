package lazyfs_test

import (
	"testing"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/require"
	"github.com/brisk-project/brisk/test/torture"
)

func TestProbe(t *testing.T) {
	require.FUSE(t)
	for _, r := range lazyfs.Probe(t.Context(), t.TempDir()+"/probe") {
		t.Logf("%s: %v", r.Backend, r.Err)
		if r.Err != nil {
			t.Errorf("backend %s: %v", r.Backend, r.Err)
		}
	}
}

// TestTortureImages holds every backend against containerd's own unpacking.
func TestTortureImages(t *testing.T) {
	require.FUSE(t)
	for _, image := range torture.Images() {
		t.Run(image.Name, func(t *testing.T) {
			want, err := image.Unpack(t.Context(), fstree.TempDir(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, backend := range lazyfs.Backends() {
				t.Run(string(backend), func(t *testing.T) {
					n := newNode(image.Layers...)
					fs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend})
					m := mount(t, fs, lazyfs.MountConfig{NoFill: true}, image.Layers...)
					got, err := fstree.Take(m.Target())
					if err != nil {
						t.Fatal(err)
					}
					for _, line := range fstree.Diff(want, got) {
						t.Error(line)
					}
				})
			}
		})
	}
}
