package convert_test

import (
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// pushNested pushes an image index with an attestation, an image for this platform, and a nested image
// index with one for arm64. Both are listed after the attestation.
func pushNested(t *testing.T, r *registrytest.Registry, ref string) {
	t.Helper()
	push := func(seed uint64, platform v1.Platform) v1.Descriptor {
		image := registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, seed)}}, Platform: platform}
		return r.Describe(t, r.Push(t, "app:part", image), &platform)
	}
	nested := r.Describe(t, r.PushEntries(t, "app:nested", push(2, arm())), nil)
	r.PushEntries(t, ref, push(3, v1.Platform{OS: "unknown", Architecture: "unknown"}), push(1, linux()), nested)
}

// requireFull checks what a tag names for a platform: the image in full mode of a source, with its
// index.
func requireFull(t *testing.T, c *registry.Client, r *registrytest.Registry, tag string, platform v1.Platform, want convert.Platform) {
	t.Helper()
	image, err := c.Resolve(t.Context(), r.Ref(t, tag), platform)
	if err != nil {
		t.Fatal(err)
	}
	if image.Digest != want.FullManifest {
		t.Errorf("%s for %s is %s, want %s in full mode", tag, registry.FormatPlatform(platform), image.Digest, want.FullManifest)
		return
	}
	if a, err := c.FindArtifact(t.Context(), image); err != nil || a.Digest != want.Artifact {
		t.Errorf("index of %s for %s: %+v, %v", tag, registry.FormatPlatform(platform), a, err)
	}
}

// A conversion of one platform leaves the images in full mode of the others under the tag, whatever
// its mode, and the last of them all leads to what one conversion of all makes.
func TestFullKeepsOtherPlatforms(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	r.PushIndex(t, "app:flat", registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 1)}}},
		registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 2)}}, Platform: arm()})
	pushNested(t, r, "app:nest")
	for _, name := range []string{"flat", "nest"} {
		ref, tag := r.Ref(t, "app:"+name), "app:"+name+"_accelerated"
		full := func(platforms ...v1.Platform) *convert.Result {
			return mustConvert(t, c, ref, convert.Config{Mode: convert.ModeFull, Platforms: platforms})
		}
		first := full(linux()).Platforms[0]
		requireFull(t, c, r, tag, linux(), first)
		second := full(arm()).Platforms[0]
		requireFull(t, c, r, tag, arm(), second)
		requireFull(t, c, r, tag, linux(), first)
		both := members(t, r, tag)
		if all := full(); all.TagPushed {
			t.Errorf("%s: converting all in the end changes the tag: %+v, want %+v", name, members(t, r, tag), both)
		}
		index := mustConvert(t, c, ref, convert.Config{Platforms: []v1.Platform{linux()}}).Platforms[0]
		if image, err := c.Resolve(t.Context(), r.Ref(t, tag), linux()); err != nil || image.Digest != index.Manifest {
			t.Errorf("%s: an index of one platform: %v", name, err)
		}
		requireFull(t, c, r, tag, arm(), second)
	}
}

// When the tag has moved, images in full mode of what it was before are not kept.
func TestFullOfMovedTagIsNotKept(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	push := func(seed uint64) {
		r.PushIndex(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, seed)}}},
			registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, seed+1)}}, Platform: arm()})
	}
	push(1)
	ref := r.Ref(t, "app:v1")
	mustConvert(t, c, ref, fullMode())
	push(3)
	result := mustConvert(t, c, ref, convert.Config{Mode: convert.ModeFull, Platforms: []v1.Platform{linux()}})
	requireFull(t, c, r, "app:v1_accelerated", linux(), result.Platforms[0])
	base, err := c.Resolve(t.Context(), ref, arm())
	if err != nil {
		t.Fatal(err)
	}
	if image, err := c.Resolve(t.Context(), r.Ref(t, "app:v1_accelerated"), arm()); err != nil || image.Digest != base.Digest {
		t.Errorf("the other platform is not the image that the tag has now: %v", err)
	}
}

// A platform that is asked for is chosen beside attestations, and within nested image indexes.
func TestChosenAmongNested(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	pushNested(t, r, "app:v1")
	for _, mode := range []convert.Mode{convert.ModeIndex, convert.ModeFull} {
		for seed, platform := range map[uint64]v1.Platform{1: linux(), 2: {OS: "linux", Architecture: "arm64"}} {
			result := mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{Mode: mode, Platforms: []v1.Platform{platform}})
			if len(result.Platforms) != 1 || len(result.Layers) != 1 {
				t.Fatalf("result %+v", result)
			}
			if want := block.Sum(stored(t, []registrytest.Layer{{Tar: tarOf(t, seed)}})[0].Blob); result.Layers[0].Digest != want {
				t.Errorf("%s: converted layer %s, want %s", registry.FormatPlatform(platform), result.Layers[0].Digest, want)
			}
		}
	}
	all := mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{})
	if len(all.Platforms) != 2 || all.Platforms[0].Skipped != "" || all.Platforms[1].Skipped != "" {
		t.Errorf("all platforms: %+v", all.Platforms)
	}
}

// The error about a missing index says what there is instead.
func TestHintAboutTheTag(t *testing.T) {
	for _, cfg := range []registrytest.Config{{}, {Referrers: true}} {
		r := registrytest.New(t, cfg)
		c := newClient(t)
		r.PushIndex(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 1)}}},
			registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 2)}}, Platform: arm()})
		ref := r.Ref(t, "app:v1")
		hint := func() string {
			image, err := c.Resolve(t.Context(), ref, linux())
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.FindArtifact(t.Context(), image)
			return errText(err)
		}
		if got := hint(); !strings.Contains(got, "no index artifact; \"brisk convert\"") {
			t.Errorf("not converted: %s", got)
		}
		mustConvert(t, c, ref, convert.Config{Platforms: []v1.Platform{arm()}})
		if got := hint(); !strings.Contains(got, "v1_accelerated has one for other platforms only") {
			t.Errorf("other platform: %s", got)
		}
		mustConvert(t, c, ref, fullMode())
		if got := hint(); !strings.Contains(got, "v1_accelerated is the image in full mode") || strings.Contains(got, "moved") {
			t.Errorf("full mode: %s", got)
		}
		r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 3)}}})
		if got := hint(); !strings.Contains(got, "the tag has moved") {
			t.Errorf("moved tag: %s", got)
		}
	}
}
