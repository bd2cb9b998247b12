package registry_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestFindPrefersPredictions finds the artifact with a predicted trace, whichever of two was pushed
// first and has the smaller digest.
func TestFindPrefersPredictions(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		for seed := range 6 {
			r := registrytest.New(t, registrytest.Config{Referrers: referrers})
			c := newClient(t, registry.Config{})
			r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: registrytest.Tar(t, registrytest.Files(uint64(seed), 1, 1000)...)}}})
			ref := r.Ref(t, "app:v1")
			image, err := c.Resolve(t.Context(), ref, linux())
			if err != nil {
				t.Fatal(err)
			}
			for _, content := range []string{"index", "trace"} {
				if err := c.PushBlob(t.Context(), ref.Context(), []byte(content), registry.LayerMediaType); err != nil {
					t.Fatal(err)
				}
			}
			indexes := []registry.IndexBlob{{Layer: image.Layers[0].Digest, DiffID: image.Layers[0].DiffID, Digest: block.Sum([]byte("index")), Size: 5}}
			trace := registry.TraceBlob{Digest: block.Sum([]byte("trace")), Size: 5, Predicted: true}
			var manifests [][]byte
			for _, traces := range [][]registry.TraceBlob{nil, {trace}} {
				manifest, err := registry.EncodeArtifact(image.Descriptor, indexes, traces...)
				if err != nil {
					t.Fatal(err)
				}
				manifests = append(manifests, manifest)
			}
			want := block.Sum(manifests[1])
			if seed%2 == 0 {
				slices.Reverse(manifests)
			}
			for _, manifest := range manifests {
				if err := c.PushArtifact(t.Context(), ref.Context(), manifest); err != nil {
					t.Fatal(err)
				}
			}
			got, err := c.FindArtifact(t.Context(), image)
			if err != nil || got.Digest != want || len(got.Traces) != 1 || !got.Traces[0].Predicted {
				t.Errorf("referrers %t, image %d: %+v, %v", referrers, seed, got, err)
			}
		}
	}
}

// TestRangesOnly reads no layer whole where the source may not.
func TestRangesOnly(t *testing.T) {
	for name, layer := range map[string]registrytest.Layer{"gzip": {}, "one zstd frame": {Compression: registrytest.Zstd}} {
		r := registrytest.New(t, registrytest.Config{})
		layer.Tar = megabytes(t, 12)
		st := store(t, r, layer)
		src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{RangesOnly: true})
		src.Add(r.Repository(t, "app"), st.layer)
		if name == "gzip" {
			r.Inject(registrytest.Rule{Fault: registrytest.IgnoreRange()})
		}
		r.ResetRequests()
		for range 3 {
			request := block.Request{Range: block.Range{Layer: st.layer.StreamID(), First: 4, Count: 1}}
			if err := src.Fetch(t.Context(), request, func(block.Key, []byte) error { return nil }); !errors.Is(err, registry.ErrNoRanges) {
				t.Errorf("%s: %v, want %v", name, err, registry.ErrNoRanges)
			}
		}
		if n := len(r.BlobRequests()); n > 1 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}
