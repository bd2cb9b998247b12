package lazyfs_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
)

// TestLayersInMemoryAreNotCold mounts two images with a common layer.
func TestLayersInMemoryAreNotCold(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		base, top := manyFiles(t, 400), manyFiles(t, 500)
		n := newNode(base, top)
		fs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend})
		id := func(layer int) block.Digest { return n.fx.Layers()[layer].ID }
		mountCold := func(want []block.Digest, streams ...[]byte) *lazyfs.Mount {
			t.Helper()
			m, err := fs.Mount(t.Context(), image(t, strconv.Itoa(len(streams)), streams...), t.TempDir(), lazyfs.MountConfig{NoFill: true})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, m.ColdLayers()); diff != "" {
				t.Errorf("cold layers:\n%s", diff)
			}
			return m
		}
		first := mountCold([]block.Digest{id(0)}, base)
		if _, err := os.ReadFile(filepath.Join(first.Target(), "d0/f1")); err != nil {
			t.Fatal(err)
		}
		both := []block.Digest{id(0), id(1)}
		half := both[1:]
		if backend == lazyfs.Tree {
			half = both
		}
		second := mountCold(half, base, top)
		for _, m := range []*lazyfs.Mount{first, second} {
			if err := m.Unmount(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		third := mountCold(both, base, top)
		if err := third.Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
