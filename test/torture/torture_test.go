package torture_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/require"
	"github.com/brisk-project/brisk/test/torture"
)

func TestImagesAreTheSameEveryTime(t *testing.T) {
	first, second := torture.Images(), torture.Images()
	names := make(map[string]bool)
	for i := range first {
		if names[first[i].Name] {
			t.Errorf("two images are called %s", first[i].Name)
		}
		names[first[i].Name] = true
		for j := range first[i].Layers {
			if !bytes.Equal(first[i].Layers[j], second[i].Layers[j]) {
				t.Errorf("layer %d of %s differs between two calls", j, first[i].Name)
			}
		}
	}
}

// An image that containerd refuses would be no image to compare with.
func TestContainerdUnpacksEveryImage(t *testing.T) {
	require.Root(t)
	for _, image := range torture.Images() {
		t.Run(image.Name, func(t *testing.T) {
			tree, err := image.Unpack(t.Context(), fstree.TempDir(t))
			if err != nil {
				t.Fatal(err)
			}
			if image.NoOverlay {
				if _, err := fstree.Unpack(t.Context(), fstree.TempDir(t), image.Layers); err == nil {
					t.Error("the overlayfs snapshotter accepts the image")
				}
			}
			total := 0
			for _, layer := range image.Layers {
				total += len(layer)
			}
			t.Logf("%d layers, %d bytes, %d names", len(image.Layers), total, len(tree.Entries))
		})
	}
}

func TestRandomImagesDependOnTheSeedAlone(t *testing.T) {
	for seed := range uint64(20) {
		first, second := torture.Random(seed), torture.Random(seed)
		if !slices.EqualFunc(first.Layers, second.Layers, bytes.Equal) {
			t.Errorf("the image of seed %d differs between two calls", seed)
		}
	}
}
