package convert_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

func newClient(t *testing.T) *registry.Client {
	t.Helper()
	c, err := registry.NewClient(registry.Config{Keychain: registrytest.Keychain(registrytest.User), StallTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func linux() v1.Platform { return v1.Platform{OS: "linux", Architecture: "amd64"} }
func arm() v1.Platform   { return v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"} }

func tarOf(t *testing.T, seed uint64) []byte {
	t.Helper()
	return registrytest.Tar(t, registrytest.Files(seed, 3, 200_000)...)
}

// layers are one of each way to store a layer, an empty one, and one twice.
func layers(t *testing.T) []registrytest.Layer {
	t.Helper()
	return []registrytest.Layer{
		{Tar: tarOf(t, 1)},
		{Tar: tarOf(t, 2), Compression: registrytest.Zstd, FrameSize: 100_000},
		{Tar: tarOf(t, 3), Compression: registrytest.Zstd},
		{Tar: tarOf(t, 4), Compression: registrytest.None},
		{Tar: registrytest.Tar(t)},
		{Tar: tarOf(t, 1)},
	}
}

func mustConvert(t *testing.T, c *registry.Client, ref name.Reference, cfg convert.Config) *convert.Result {
	t.Helper()
	result, err := convert.Convert(t.Context(), c, ref, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// layerReads returns how often each blob that is a layer of the test was read.
func layerReads(r *registrytest.Registry, layers []registrytest.Layer) map[string]int {
	reads := map[string]int{}
	for _, request := range r.BlobRequests() {
		for _, l := range layers {
			if digest := block.Sum(l.Blob).String(); strings.HasSuffix(request.Path, digest) {
				reads[digest]++
				break
			}
		}
	}
	return reads
}

func stored(t *testing.T, layers []registrytest.Layer) []registrytest.Layer {
	t.Helper()
	for i := range layers {
		layers[i].Blob = registrytest.Compress(t, layers[i])
	}
	return layers
}

// registries are the ways in which registries differ for a conversion.
func registries() map[string]registrytest.Config {
	return map[string]registrytest.Config{
		"distribution": {},
		"referrers":    {Referrers: true},
		"basic":        {Auth: registrytest.AuthBasic},
		"token":        {Auth: registrytest.AuthToken, Redirect: true},
	}
}

// An image is converted with one read of each layer, its indexes are found, open
// and decode, and a second conversion reads and writes nothing.
func TestConvert(t *testing.T) {
	for kind, cfg := range registries() {
		for _, docker := range []bool{false, true} {
			t.Run(kind, func(t *testing.T) {
				r := registrytest.New(t, cfg)
				c := newClient(t)
				content := stored(t, layers(t))
				pushed := r.Push(t, "some/app:v1", registrytest.Image{Layers: content, Docker: docker})
				r.ResetRequests()
				ref := r.Ref(t, "some/app:v1")
				first := mustConvert(t, c, ref, convert.Config{})

				reads := layerReads(r, content)
				for _, l := range first.Layers {
					want := 1
					if cfg.Redirect {
						want = 2 // the registry, then the storage behind it
					}
					if got := reads[l.Digest.String()]; got != want {
						t.Errorf("layer %s was read %d times", l.Digest, got)
					}
				}
				if len(first.Layers) != 5 || len(first.Platforms) != 1 || len(first.Platforms[0].Layers) != 6 {
					t.Fatalf("result %+v", first)
				}
				if p := first.Platforms[0]; p.Manifest.String() != pushed.DigestStr() || !p.Pushed || p.Platform != "linux/amd64" {
					t.Errorf("platform %+v", p)
				}
				checkFound(t, c, ref, content, first.Platforms[0].Artifact)
				checkFound(t, c, pushed, content, first.Platforms[0].Artifact)

				r.ResetRequests()
				second := mustConvert(t, newClient(t), ref, convert.Config{})
				if reads := layerReads(r, content); len(reads) != 0 {
					t.Errorf("the second conversion read layers: %v", reads)
				}
				for _, request := range r.Requests() {
					if request.Write() {
						t.Errorf("the second conversion wrote: %s %s", request.Method, request.Path)
					}
				}
				if second.Platforms[0].Artifact != first.Platforms[0].Artifact || second.TagDigest != first.TagDigest {
					t.Error("the second conversion has another result")
				}
				if second.Platforms[0].Pushed || second.TagPushed || !second.Layers[0].Reused {
					t.Errorf("the second conversion did something: %+v", second)
				}
			})
		}
	}
}

// checkFound reads an image through its indexes.
func checkFound(t *testing.T, c *registry.Client, ref name.Reference, content []registrytest.Layer, want block.Digest) {
	t.Helper()
	image, err := c.Resolve(t.Context(), ref, linux())
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := c.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if artifact.Digest != want || artifact.Subject != image.Digest {
		t.Errorf("found artifact %s of %s, want %s of %s", artifact.Digest, artifact.Subject, want, image.Digest)
	}
	indexes, err := c.LayerIndexes(t.Context(), image, artifact)
	if err != nil {
		t.Fatal(err)
	}
	source, err := registry.NewSource(c, registry.SourceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range indexes {
		source.Add(ref.Context(), l)
		got := make([]byte, l.StreamSize())
		all := block.Range{Layer: l.StreamID(), Count: block.Count(l.StreamSize())}
		if err := source.Fetch(t.Context(), block.Request{Range: all}, func(k block.Key, data []byte) error {
			copy(got[k.Offset():], data)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, content[i].Tar) {
			t.Errorf("layer %d differs", i)
		}
	}
}

// Converting with other settings of speed, in another registry, makes the same
// artifact.
func TestDeterministic(t *testing.T) {
	var first *convert.Result
	for i, kind := range []registrytest.Config{{}, {Referrers: true}, {}} {
		r := registrytest.New(t, kind)
		r.Push(t, "app:v1", registrytest.Image{Layers: layers(t)})
		result := mustConvert(t, newClient(t), r.Ref(t, "app:v1"), convert.Config{Parallel: i + 1})
		if first == nil {
			first = result
			continue
		}
		if result.Platforms[0].Artifact != first.Platforms[0].Artifact || result.TagDigest != first.TagDigest {
			t.Errorf("conversion %d differs", i)
		}
	}
}

// Every platform gets its artifact, layers they share are read once, and the
// accelerated tag resolves for every platform as the original does.
func TestPlatforms(t *testing.T) {
	for _, docker := range []bool{false, true} {
		r := registrytest.New(t, registrytest.Config{})
		c := newClient(t)
		content := stored(t, []registrytest.Layer{{Tar: tarOf(t, 1)}, {Tar: tarOf(t, 2)}, {Tar: tarOf(t, 3)}})
		r.PushIndex(t, "app:v1",
			registrytest.Image{Layers: []registrytest.Layer{content[0], content[1]}, Docker: docker},
			registrytest.Image{Layers: []registrytest.Layer{content[0], content[2]}, Docker: docker, Platform: arm()},
			registrytest.Image{Layers: []registrytest.Layer{content[2]}, Docker: docker, Platform: v1.Platform{OS: "unknown", Architecture: "unknown"}})
		r.ResetRequests()
		result := mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{})
		if len(result.Platforms) != 2 || len(result.Layers) != 3 {
			t.Fatalf("result %+v", result)
		}
		for digest, n := range layerReads(r, content) {
			if n != 1 {
				t.Errorf("layer %s was read %d times", digest, n)
			}
		}
		tag := r.Ref(t, "app:v1_accelerated")
		if result.Tag != tag.String() || !result.TagPushed {
			t.Errorf("tag %q, want %q", result.Tag, tag)
		}
		for i, platform := range []v1.Platform{linux(), arm()} {
			for _, ref := range []name.Reference{r.Ref(t, "app:v1"), tag} {
				image, err := c.Resolve(t.Context(), ref, platform)
				if err != nil {
					t.Fatal(err)
				}
				if image.Digest != result.Platforms[i].Manifest {
					t.Errorf("%s for %s is %s", ref, platform, image.Digest)
				}
				artifact, err := c.FindArtifact(t.Context(), image)
				if err != nil || artifact.Digest != result.Platforms[i].Artifact {
					t.Errorf("artifact of %s for %s: %v, %v", ref, platform, artifact, err)
				}
			}
		}
		// Converting what is accelerated already changes nothing.
		again := mustConvert(t, c, tag, convert.Config{})
		if again.TagPushed || again.TagDigest != result.TagDigest || again.Tag != result.Tag {
			t.Errorf("converting the accelerated tag: %+v", again)
		}
	}
}

// The artifact is found through the accelerated tag alone, as after copying only
// that tag to a registry.
func TestFoundThroughTag(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 1)}}})
	result := mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{})
	// Without referrers: neither the API nor the fallback tag answers.
	r.Inject(registrytest.Rule{Fault: registrytest.Status(http.StatusNotFound), Match: func(req *http.Request) bool {
		return strings.Contains(req.URL.Path, "/referrers/") || strings.Contains(req.URL.Path, "/manifests/sha256-")
	}})
	for _, ref := range []string{"app:v1", "app:v1_accelerated"} {
		image, err := c.Resolve(t.Context(), r.Ref(t, ref), linux())
		if err != nil {
			t.Fatal(err)
		}
		artifact, err := c.FindArtifact(t.Context(), image)
		if err != nil || artifact.Digest != result.Platforms[0].Artifact {
			t.Errorf("%s: %v", ref, err)
		}
	}
	image, err := c.Resolve(t.Context(), r.Ref(t, "app@"+result.Platforms[0].Manifest.String()), linux())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.FindArtifact(t.Context(), image); !errors.Is(err, registry.ErrNoArtifact) {
		t.Errorf("by digest without referrers: %v", err)
	}
}

// Layers that other images have had indexed are not read again: of the base image
// in another repository, and of other tags of the same one.
func TestSharedLayers(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	content := stored(t, []registrytest.Layer{{Tar: tarOf(t, 1)}, {Tar: tarOf(t, 2)}, {Tar: tarOf(t, 3)}})
	r.Push(t, "base:latest", registrytest.Image{Layers: content[:1]})
	mustConvert(t, c, r.Ref(t, "base:latest"), convert.Config{})

	r.Push(t, "app:v1", registrytest.Image{Layers: content[:2]})
	r.ResetRequests()
	result := mustConvert(t, c, r.Ref(t, "app:v1"), convert.Config{ReuseFrom: []name.Reference{r.Ref(t, "base:latest")}})
	if diff := cmp.Diff(map[string]int{block.Sum(content[1].Blob).String(): 1}, layerReads(r, content)); diff != "" {
		t.Errorf("reads with a known base: %s", diff)
	}
	checkFound(t, c, r.Ref(t, "app:v1"), content[:2], result.Platforms[0].Artifact)

	r.Push(t, "app:v2", registrytest.Image{Layers: content})
	r.ResetRequests()
	mustConvert(t, c, r.Ref(t, "app:v2"), convert.Config{})
	if diff := cmp.Diff(map[string]int{block.Sum(content[2].Blob).String(): 1}, layerReads(r, content)); diff != "" {
		t.Errorf("reads with a neighbour: %s", diff)
	}

	// The same tag, rebuilt, has its own former layers.
	r.Push(t, "app:v2", registrytest.Image{Layers: []registrytest.Layer{content[2], content[0]}})
	r.ResetRequests()
	mustConvert(t, c, r.Ref(t, "app:v2"), convert.Config{NeighbourTags: -1})
	if reads := layerReads(r, content); len(reads) != 0 {
		t.Errorf("reads of a rebuilt tag: %v", reads)
	}
	r.ResetRequests()
	mustConvert(t, c, r.Ref(t, "app:v2"), convert.Config{Reindex: true})
	if reads := layerReads(r, content); len(reads) != 2 {
		t.Errorf("reads when indexing anew: %v", reads)
	}
}

func TestTags(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	digest := r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: tarOf(t, 1)}}})
	if result := mustConvert(t, c, digest, convert.Config{}); result.Tag != "" || result.TagPushed {
		t.Errorf("an image named by digest got tag %q", result.Tag)
	}
	tag := r.Repository(t, "app").Tag("fast")
	if result := mustConvert(t, c, digest, convert.Config{Tag: &tag}); result.Tag != tag.String() || !result.TagPushed {
		t.Errorf("asked for tag %s, got %q", tag, result.Tag)
	}
}

// A connection that breaks in the middle of a layer is taken up where it broke.
func TestResume(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	layer := registrytest.Layer{Tar: tarOf(t, 1), Compression: registrytest.None}
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{layer}})
	digest := block.Sum(layer.Tar).String()
	match := func(req *http.Request) bool {
		return req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, digest)
	}
	r.Inject(registrytest.Rule{Fault: registrytest.Cut(100_000), Match: match, Times: 1})
	r.Inject(registrytest.Rule{Fault: registrytest.Status(503, "Retry-After", "0"), Match: match, Times: 1})
	r.ResetRequests()
	mustConvert(t, newClient(t), r.Ref(t, "app:v1"), convert.Config{})
	var ranges []string
	for _, request := range r.Requests() {
		if strings.HasSuffix(request.Path, digest) {
			ranges = append(ranges, request.Range)
		}
	}
	if len(ranges) != 3 || ranges[0] != "" || !strings.HasPrefix(ranges[2], "bytes=") || strings.HasPrefix(ranges[2], "bytes=0-") {
		t.Errorf("ranges %q", ranges)
	}
}

// Events come one at a time and account for every layer.
func TestProgress(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	content := stored(t, layers(t))
	r.Push(t, "app:v1", registrytest.Image{Layers: content})
	last := map[block.Digest]convert.Event{}
	cfg := convert.Config{Parallel: 3, Progress: func(e convert.Event) {
		if before, ok := last[e.Layer]; ok && (e.ReadBytes < before.ReadBytes || e.TotalBytes != before.TotalBytes) {
			t.Errorf("%s after %s: %+v after %+v", e.Kind, before.Kind, e, before)
		}
		last[e.Layer] = e
	}}
	mustConvert(t, newClient(t), r.Ref(t, "app:v1"), cfg)
	if len(last) != 5 {
		t.Errorf("%d layers", len(last))
	}
	for digest, e := range last {
		if e.Kind != convert.LayerIndexed || e.ReadBytes != e.TotalBytes {
			t.Errorf("layer %s ends with %+v", digest, e)
		}
	}
}
