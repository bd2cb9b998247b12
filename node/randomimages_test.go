package node_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
	"github.com/brisk-project/brisk/test/torture"
)

// fromEnv returns a number of the environment, or another one.
func fromEnv(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// stored compresses layers in the ways of all tools. One zstd layer in two is a single
// frame, which has to be streamed.
func stored(tars [][]byte, seed uint64) []registrytest.Layer {
	var layers []registrytest.Layer
	for i, tar := range tars {
		l := registrytest.Layer{
			Tar: tar, Level: 1, Compression: registrytest.Compression((seed + uint64(i)) % 3), FrameSize: int(seed/3%2) * 100_000,
		}
		if len(tar) == 0 {
			l.Compression = registrytest.Gzip // containerd refuses blobs of no bytes
		}
		layers = append(layers, l)
	}
	return layers
}

// Images that are different in every run, and what containerd makes of them.
// BRISK_SEED is the seed of the first, BRISK_IMAGES how many there are.
func TestRandomImages(t *testing.T) {
	require.FUSE(t)
	// "make test-images" tries 100.
	seed, count := fromEnv(t, "BRISK_SEED", uint64(time.Now().Unix())), fromEnv(t, "BRISK_IMAGES", 8)
	t.Logf("BRISK_SEED=%d BRISK_IMAGES=%d", seed, count)
	nodes := make(map[lazyfs.Backend]*node.Node)
	for _, backend := range lazyfs.Backends() {
		nodes[backend], _ = start(t, node.Config{Backend: backend})
	}
	reg := registrytest.New(t, registrytest.Config{})
	for i := range count {
		image := torture.Random(seed + i)
		t.Run(image.Name, func(t *testing.T) {
			want, err := image.Unpack(t.Context(), fstree.TempDir(t))
			if err != nil {
				t.Fatalf("containerd refuses the image: %v", err)
			}
			ref := push(t, reg, "random:"+strconv.FormatUint(i, 10), stored(image.Layers, seed+i))
			for j, backend := range []lazyfs.Backend{lazyfs.Erofs, lazyfs.Loop, lazyfs.Tree} {
				if j > 0 && i%4 != uint64(j) {
					continue
				}
				m := mountWith(t, nodes[backend], node.MountRequest{Image: ref, NoFill: i%2 == 0})
				got, err := fstree.Take(m.Status().Target)
				if err != nil {
					t.Fatalf("%s: %v", backend, err)
				}
				for _, line := range fstree.Diff(want, got) {
					t.Errorf("%s: %s", backend, line)
				}
				if err := m.Unmount(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if t.Failed() {
				t.Logf("again: make test-images BRISK_SEED=%d BRISK_IMAGES=1", seed+i)
			}
		})
	}
}
