package convert_test

import (
	"testing"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/torture"
)

// The layers of the torture images come back byte for byte through their indexes,
// however they are stored.
func TestTorture(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	for _, image := range torture.Images() {
		t.Run(image.Name, func(t *testing.T) {
			var content []registrytest.Layer
			for i, tar := range image.Layers {
				content = append(content, registrytest.Layer{
					Tar: tar, Compression: registrytest.Compression(i % 3), Level: 1, FrameSize: 100_000,
				})
			}
			ref := "torture/" + image.Name + ":v1"
			r.Push(t, ref, registrytest.Image{Layers: content})
			result := mustConvert(t, c, r.Ref(t, ref), convert.Config{})
			checkFound(t, c, r.Ref(t, ref), content, result.Platforms[0].Artifact)
		})
	}
}
