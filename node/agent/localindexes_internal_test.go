package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
)

// writtenImage is an image with the index of its only layer.
func writtenImage(n byte) *node.Image {
	return &node.Image{Name: "r/app:v1", Digest: block.Sum([]byte{n}), Layers: []node.ImageLayer{
		{Digest: block.Sum([]byte{n, 1}), Index: block.Sum([]byte{n, 2}), IndexSize: 1 << 20},
	}}
}

func TestWrittenIsBoundedAndLasts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "indexed.json")
	w, err := openLocalIndexes(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for n := range byte(maxIndexed + 2) {
		if err := w.add(writtenImage(n)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := openLocalIndexes(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []*localIndexes{w, again} {
		if _, ok := w.image(writtenImage(1).Digest.String()); ok {
			t.Error("the second of 130 images is still there")
		}
		if _, ok := w.layer(writtenImage(2).Layers[0]); !ok {
			t.Error("the third of 130 images is gone")
		}
		if err := w.retain(func(indexes []block.Digest) error {
			if len(indexes) != maxIndexed {
				t.Errorf("%d indexes are kept", len(indexes))
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if err := again.drop(writtenImage(2).Digest); err != nil {
		t.Error(err)
	}
	if _, ok := again.image(writtenImage(2).Digest.String()); ok {
		t.Error("a dropped image is still there")
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w, err := openLocalIndexes(path, nil); err == nil || w == nil {
		t.Errorf("a broken list: %v", err)
	}
}

func FuzzWritten(f *testing.F) {
	list, err := json.Marshal([]*node.Image{writtenImage(1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(list)
	f.Add([]byte("[null, {}]"))
	f.Fuzz(func(t *testing.T, list []byte) {
		images, err := parseLocalIndexes(list)
		for _, image := range images {
			if err != nil || image == nil || image.Digest.IsZero() || image.Indexed() != len(image.Layers) {
				t.Errorf("%+v, %v", image, err)
			}
		}
	})
}
