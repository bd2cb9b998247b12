package node_test

import (
	"os"
	"testing"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
	"github.com/brisk-project/brisk/test/torture"
)

func TestMountEqualsUnpacked(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	for _, image := range torture.Images() {
		t.Run(image.Name, func(t *testing.T) {
			t.Parallel()
			want, err := image.Unpack(t.Context(), fstree.TempDir(t))
			if err != nil {
				t.Fatal(err)
			}
			ref := push(t, reg, "torture/"+image.Name, tarLayers(image.Layers))
			for _, backend := range lazyfs.Backends() {
				t.Run(string(backend), func(t *testing.T) {
					n, _ := start(t, node.Config{Backend: backend})
					target := t.TempDir()
					m, err := n.Mount(t.Context(), node.MountRequest{Image: ref, Target: target})
					if err != nil {
						t.Fatal(err)
					}
					got, err := fstree.Take(target)
					if err != nil {
						t.Fatal(err)
					}
					for _, line := range fstree.Diff(want, got) {
						t.Error(line)
					}
					if err := m.Unmount(t.Context()); err != nil {
						t.Error(err)
					}
					if left, err := os.ReadDir(target); err != nil || len(left) != 0 {
						t.Errorf("after unmounting the target holds %v (%v)", left, err)
					}
				})
			}
		})
	}
}
