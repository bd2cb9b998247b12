package node_test

import (
	"testing"

	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/registrytest"
)

// pushForged pushes an image whose configuration and index claim that its one layer has
// the diffID of victim, while it holds something else.
func pushForged(t *testing.T, reg *registrytest.Registry, ref string, victim, evil registrytest.Layer) string {
	t.Helper()
	stolen := block.Sum(victim.Tar)
	evil.DiffID = stolen.String()
	pushed := reg.Push(t, ref, registrytest.Image{Layers: []registrytest.Layer{evil}})
	indextest.Push(t, newClient(t), pushed, indextest.WithDiffID(t, indextest.Build(t, evil.Blob), stolen))
	return pushed.String()
}

// An image that steals the diffID of another one's layer, with the same names and sizes
// in it, must not get a byte of its own into that image: neither while both are
// mounted, nor through what it leaves in caches, nor through kept metadata.
func TestForgedIndex(t *testing.T) {
	t.Parallel()
	const name = "app"
	good := registrytest.Files(1, 1, 2<<20)[1].Data
	wrong := registrytest.Files(2, 1, 2<<20)[1].Data
	layer := func(data []byte) registrytest.Layer {
		l := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.File{Name: name, Data: data}), Level: 1}
		l.Blob = registrytest.Compress(t, l)
		return l
	}
	victim, evil := layer(good), layer(wrong)
	reg := registrytest.New(t, registrytest.Config{})
	honest := push(t, reg, "honest:v1", []registrytest.Layer{victim})
	forged := pushForged(t, reg, "forged:v1", victim, evil)
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		for _, together := range []bool{true, false} {
			n, _ := start(t, node.Config{Backend: backend})
			first, err := n.Mount(t.Context(), node.MountRequest{Image: forged, Target: t.TempDir(), NoFill: true})
			if err != nil {
				t.Fatal(err)
			}
			requireFiles(t, first.Status().Target, map[string][]byte{name: wrong})
			if !together {
				if err := first.Unmount(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			second := mount(t, n, honest)
			requireFiles(t, second.Status().Target, map[string][]byte{name: good})
			if together {
				requireFiles(t, first.Status().Target, map[string][]byte{name: wrong})
			}
		}
	})
}
