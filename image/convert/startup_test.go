package convert_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestConversionKeepsTraces converts an image again that has traces, the last ones of which only
// the referrers know, and to another tag.
func TestConversionKeepsTraces(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		r := registrytest.New(t, registrytest.Config{Referrers: referrers})
		c := newClient(t)
		r.Push(t, "app:v1", registrytest.Image{Layers: layers(t)[:1]})
		ref := r.Ref(t, "app:v1")
		mustConvert(t, c, ref, convert.Config{})
		image, err := c.Resolve(t.Context(), ref, linux())
		if err != nil {
			t.Fatal(err)
		}
		push := func(command string, previous *registry.Startup) registry.Descriptor {
			content := []byte("trace of " + command)
			if err := c.PushBlob(t.Context(), ref.Context(), content, registry.TraceMediaType); err != nil {
				t.Fatal(err)
			}
			s := registry.Startup{Traces: []registry.TraceBlob{{Digest: block.Sum(content), Size: int64(len(content)), Command: command}}}
			pushed, err := c.PushStartup(t.Context(), image, s, previous, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return pushed
		}
		first := push("first", nil)
		image.Name = ref.Context().Digest(image.Digest.String()) // so that the tag is left alone
		second := push("second", &registry.Startup{Created: first.Created})
		another := ref.Context().Tag("another_accelerated")
		for _, cfg := range []convert.Config{{}, {Reindex: true}, {Tag: &another}} {
			mustConvert(t, c, ref, cfg)
			tag := registry.AcceleratedTag(ref.Context().Tag("v1"))
			if cfg.Tag != nil {
				tag = *cfg.Tag
			}
			got, err := c.ListedUnder(t.Context(), tag)
			got = slices.DeleteFunc(got, func(d registry.Descriptor) bool { return !d.Startup })
			if diff := cmp.Diff([]registry.Descriptor{second}, got); err != nil || diff != "" {
				t.Errorf("referrers %v: start-up artifacts under %s: %v\n%s", referrers, tag, err, diff)
			}
		}
	}
}
