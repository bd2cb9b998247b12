package convert_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// odd pushes an image index that lists, besides two images, what cannot be indexed, first of all
// an EROFS-native image for this platform. It returns its entries.
func odd(t *testing.T, r *registrytest.Registry, ref string) []v1.Descriptor {
	t.Helper()
	push := func(platform v1.Platform, layer registrytest.Layer) v1.Descriptor {
		digest := r.Push(t, "app:part", registrytest.Image{Layers: []registrytest.Layer{layer}, Platform: platform})
		return r.Describe(t, digest, &platform)
	}
	erofs := linux()
	erofs.OSFeatures = []string{"erofs"}
	entries := []v1.Descriptor{
		push(erofs, registrytest.Layer{Tar: []byte(strings.Repeat("erofs", 1000)), Compression: registrytest.None, MediaType: "application/vnd.erofs.layer.v1"}),
		push(linux(), registrytest.Layer{Tar: tarOf(t, 1)}),
		push(v1.Platform{OS: "linux", Architecture: "s390x"}, registrytest.Layer{Tar: []byte(strings.Repeat("no tar ", 1000))}),
		push(v1.Platform{OS: "unknown", Architecture: "unknown"}, registrytest.Layer{
			Tar: []byte("{}"), Compression: registrytest.None, MediaType: "application/vnd.in-toto+json",
		}),
	}
	nested := r.Describe(t, r.PushEntries(t, "app:nested", push(arm(), registrytest.Layer{Tar: tarOf(t, 2)})), nil)
	artifact := r.Describe(t, r.PushArtifact(t, "app:model", "application/vnd.cncf.model.manifest.v1+json"), &v1.Platform{OS: "linux", Architecture: "amd64"})
	artifact.ArtifactType = "application/vnd.cncf.model.manifest.v1+json"
	entries = append(entries, nested, artifact)
	r.PushEntries(t, ref, entries...)
	return entries
}

// What cannot be indexed is skipped with its reason, everything else is converted, and the
// accelerated tag lists all that the original does.
func TestOddPlatforms(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	entries := odd(t, r, "app:v1")
	result := mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{})
	var got []string
	for _, p := range result.Platforms {
		what := p.Skipped
		for _, known := range []string{"not a tar", "cannot be indexed", "artifact of type"} {
			if strings.Contains(p.Skipped, known) {
				what = known
			}
		}
		got = append(got, p.Platform+" "+what)
	}
	want := []string{
		"linux(+erofs)/amd64 not a tar", "linux/amd64 ", "linux/s390x cannot be indexed", "linux/arm64/v8 ", "linux/amd64 artifact of type",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	tag := r.Ref(t, "app:v1_accelerated")
	listed := members(t, r, "app:v1_accelerated")
	if diff := cmp.Diff(entries, listed[:len(entries)]); diff != "" || len(listed) != len(entries)+2 {
		t.Errorf("the tag lists %d entries: %s", len(listed), diff)
	}
	for i, platform := range map[int]v1.Platform{1: linux(), 3: arm()} {
		image, err := c.Resolve(t.Context(), tag, platform)
		if err != nil || image.Digest != result.Platforms[i].Manifest {
			t.Fatalf("%s for %s: %+v, %v", tag, platform, image, err)
		}
		if artifact, err := c.FindArtifact(t.Context(), image); err != nil || artifact.Digest != result.Platforms[i].Artifact {
			t.Errorf("artifact for %s: %+v, %v", platform, artifact, err)
		}
	}
	again := mustConvert(t, c, tag, convert.Config{})
	if again.TagPushed || again.TagDigest != result.TagDigest {
		t.Errorf("converting the accelerated tag: %+v", again)
	}
}

// members returns what an image index lists.
func members(t *testing.T, r *registrytest.Registry, ref string) []v1.Descriptor {
	t.Helper()
	var index v1.IndexManifest
	if err := json.Unmarshal(r.Manifest(t, ref), &index); err != nil {
		t.Fatal(err)
	}
	return index.Manifests
}

// A platform that is asked for is converted alone, as a machine of it would choose, and what
// others have keeps.
func TestChosenPlatforms(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	content := stored(t, []registrytest.Layer{{Tar: tarOf(t, 1)}, {Tar: tarOf(t, 2)}, {Tar: tarOf(t, 3)}})
	i386 := v1.Platform{OS: "linux", Architecture: "386"}
	r.PushIndex(t, "app:v1",
		registrytest.Image{Layers: content[:1], Platform: i386},
		registrytest.Image{Layers: content[1:2]},
		registrytest.Image{Layers: content[2:], Platform: arm()})
	convertFor := func(platforms ...v1.Platform) *convert.Result {
		t.Helper()
		r.ResetRequests()
		return mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{Platforms: platforms})
	}
	wide := linux()
	wide.Variant = "v3"
	first := convertFor(wide)
	if reads := layerReads(r, content); len(reads) != 1 || reads[block.Sum(content[1].Blob).String()] != 1 || len(first.Platforms) != 1 {
		t.Errorf("reads %v, result %+v", reads, first)
	}
	second := convertFor(arm(), v1.Platform{OS: "linux", Architecture: "arm64"}, i386)
	if reads := layerReads(r, content); len(reads) != 2 || len(second.Platforms) != 2 {
		t.Errorf("reads %v, result %+v", reads, second)
	}
	var subjects []string
	for _, d := range members(t, r, "app:v1_accelerated")[3:] {
		subjects = append(subjects, d.Annotations[registry.AnnotationSubject])
	}
	var images []string
	for _, d := range members(t, r, "app:v1") {
		images = append(images, d.Digest.String())
	}
	if diff := cmp.Diff(images, subjects); diff != "" {
		t.Errorf("artifacts under the tag: %s", diff)
	}
	all := convertFor()
	if all.TagPushed || all.TagDigest != second.TagDigest {
		t.Errorf("converting all in the end changes the tag: %+v", all)
	}
	if _, err := convert.Convert(t.Context(), c, r.Ref(t, "app:v1"), convert.Config{
		Platforms: []v1.Platform{{OS: "linux", Architecture: "riscv64"}},
	}); err == nil || !strings.Contains(err.Error(), "linux/riscv64") {
		t.Errorf("a platform that is not there: %v", err)
	}
}

// Bytes that are not those of the manifest are an error also where a tar that cannot be indexed
// would be left out.
func TestDamagedLayerIsNotSkipped(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	damaged := registrytest.Layer{Tar: tarOf(t, 1), Compression: registrytest.None, MediaType: types.OCIUncompressedLayer}
	r.PushIndex(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{damaged}},
		registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 2)}}, Platform: arm()})
	r.Inject(registrytest.Rule{Fault: registrytest.Flip(100), Match: registrytest.Blob(block.Sum(damaged.Tar).String())})
	if _, err := convert.Convert(t.Context(), c, r.Ref(t, "app:v1"), convert.Config{}); !strings.Contains(errText(err), "digest") {
		t.Errorf("error %v", err)
	}
	if _, err := c.Resolve(t.Context(), r.Ref(t, "app:v1_accelerated"), linux()); err == nil {
		t.Error("a failed conversion left a tag")
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
