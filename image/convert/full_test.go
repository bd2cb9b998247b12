package convert_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func fullMode() convert.Config { return convert.Config{Mode: convert.ModeFull} }

// checkFull checks that the image under a tag is one in full mode of the layers given, for
// runtimes that know nothing of it and for those that read it in parts.
func checkFull(t *testing.T, c *registry.Client, tag name.Reference, content []registrytest.Layer, p convert.Platform) {
	t.Helper()
	image, err := c.Resolve(t.Context(), tag, linux())
	if err != nil {
		t.Fatal(err)
	}
	source, full := image.Source()
	if !full || source != p.Manifest || image.Digest != p.FullManifest || image.Descriptor.MediaType != types.OCIManifestSchema1 ||
		image.ConfigBlob.MediaType != types.OCIConfigJSON {
		t.Fatalf("%s is %s (%s, configuration %s) of %s, want %s of %s", tag, image.Digest, image.Descriptor.MediaType,
			image.ConfigBlob.MediaType, source, p.FullManifest, p.Manifest)
	}
	checkFound(t, c, tag, content, p.Artifact)
	for i, layer := range image.Layers {
		if layer.MediaType != types.OCILayerZStd {
			t.Errorf("layer %d is %s", i, layer.MediaType)
		}
		blob, err := c.ReadBlob(t.Context(), tag.Context(), layer.Digest, layer.Size, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		dec, err := zstd.NewReader(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		stream, err := io.ReadAll(dec)
		dec.Close()
		if err != nil || !bytes.Equal(stream, content[i].Tar) {
			t.Errorf("layer %d: %d of %d bytes: %v", i, len(stream), len(content[i].Tar), err)
		}
	}
}

// Every kind of layer, of OCI and Docker images, is recompressed with one read; the second
// conversion reads no layer and writes nothing, and neither does converting the result.
func TestFull(t *testing.T) {
	for kind, cfg := range registries() {
		for _, docker := range []bool{false, true} {
			t.Run(kind, func(t *testing.T) {
				r := registrytest.New(t, cfg)
				c := newClient(t)
				content := stored(t, layers(t))
				base := r.Push(t, "some/app:v1", registrytest.Image{Layers: content, Docker: docker})
				r.ResetRequests()
				ref, tag := r.Ref(t, "some/app:v1"), r.Ref(t, "some/app:v1_accelerated")
				first := mustConvert(t, c, ref, fullMode())
				for digest, n := range layerReads(r, content) {
					if n > 1 && !cfg.Redirect {
						t.Errorf("layer %s was read %d times", digest, n)
					}
				}
				p := first.Platforms[0]
				if first.Mode != convert.ModeFull || first.Tag != tag.String() || p.Manifest.String() != base.DigestStr() || p.FullManifest == p.Manifest {
					t.Fatalf("result %+v", first)
				}
				for _, l := range first.Layers {
					if l.FullDigest.IsZero() || l.FullSize == 0 || l.FullDigest == l.Digest {
						t.Errorf("layer %+v", l)
					}
				}
				checkFull(t, c, tag, content, p)
				if now, err := c.Resolve(t.Context(), ref, linux()); err != nil || now.Digest.String() != base.DigestStr() {
					t.Errorf("the base has changed: %v", err)
				}
				for _, again := range []name.Reference{ref, tag} {
					r.ResetRequests()
					second := mustConvert(t, newClient(t), again, fullMode())
					if reads := layerReads(r, content); len(reads) != 0 {
						t.Errorf("converting %s again read layers: %v", again, reads)
					}
					for _, request := range r.Requests() {
						if request.Write() {
							t.Errorf("converting %s again wrote: %s %s", again, request.Method, request.Path)
						}
					}
					if second.TagDigest != first.TagDigest || second.Platforms[0].Artifact != p.Artifact || second.TagPushed || second.Platforms[0].Pushed {
						t.Errorf("converting %s again has another result: %+v", again, second)
					}
				}
				// An index of the base is another thing, and replaces nothing but the tag.
				index := mustConvert(t, c, ref, convert.Config{})
				checkFound(t, c, ref, content, index.Platforms[0].Artifact)
				if back := mustConvert(t, c, ref, fullMode()); back.Platforms[0].FullManifest != p.FullManifest || back.Platforms[0].Artifact != p.Artifact {
					t.Errorf("converted again after an index: %+v", back)
				}
			})
		}
	}
}

// Layers that were converted for another image are not read again: of a base in another
// repository, and of other tags of the same one.
func TestFullSharesLayers(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	content := stored(t, []registrytest.Layer{{Tar: tarOf(t, 1)}, {Tar: tarOf(t, 2)}, {Tar: tarOf(t, 3)}})
	r.Push(t, "base:latest", registrytest.Image{Layers: content[:1]})
	base := mustConvert(t, c, r.Ref(t, "base:latest"), fullMode())

	// The base is named by its own tag, or by that of its full mode.
	for i, known := range []string{"base:latest", "base:latest_accelerated"} {
		app := []string{"app", "other"}[i]
		r.Push(t, app+":v1", registrytest.Image{Layers: content[:2]})
		r.ResetRequests()
		cfg := fullMode()
		cfg.ReuseFrom = []name.Reference{r.Ref(t, known)}
		result := mustConvert(t, c, r.Ref(t, app+":v1"), cfg)
		if diff := cmp.Diff(map[string]int{block.Sum(content[1].Blob).String(): 1}, layerReads(r, content)); diff != "" {
			t.Errorf("reads with a known base: %s", diff)
		}
		if result.Layers[0].FullDigest != base.Layers[0].FullDigest || !result.Layers[0].Reused {
			t.Errorf("layer of the base: %+v", result.Layers[0])
		}
		checkFull(t, c, r.Ref(t, app+":v1_accelerated"), content[:2], result.Platforms[0])
	}

	r.Push(t, "app:v2", registrytest.Image{Layers: content})
	r.ResetRequests()
	result := mustConvert(t, c, r.Ref(t, "app:v2"), fullMode())
	if diff := cmp.Diff(map[string]int{block.Sum(content[2].Blob).String(): 1}, layerReads(r, content)); diff != "" {
		t.Errorf("reads with a neighbour: %s", diff)
	}
	checkFull(t, c, r.Ref(t, "app:v2_accelerated"), content, result.Platforms[0])

	// A layer stream that is stored otherwise is the same one.
	content[0].Compression, content[0].Blob = registrytest.None, content[0].Tar
	r.Push(t, "app:v3", registrytest.Image{Layers: content})
	r.ResetRequests()
	if mustConvert(t, c, r.Ref(t, "app:v3"), fullMode()); len(layerReads(r, content)) > 0 {
		t.Errorf("reads of another blob: %v", layerReads(r, content))
	}
	cfg := fullMode()
	cfg.Reindex = true
	again := mustConvert(t, c, r.Ref(t, "app:v3"), cfg)
	if reads := layerReads(r, content); len(reads) != 3 {
		t.Errorf("reads when converting anew: %v", reads)
	}
	if again.Layers[0].FullDigest != base.Layers[0].FullDigest {
		t.Error("converting anew made another blob")
	}
}

// All platforms are listed under one tag, each with its own manifest.
func TestFullPlatforms(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	content := stored(t, layers(t))
	r.PushIndex(t, "app:v1", registrytest.Image{Layers: content[:2]}, registrytest.Image{Layers: content[1:4], Platform: arm()})
	result := mustConvert(t, c, r.Ref(t, "app:v1"), fullMode())
	tag := r.Ref(t, "app:v1_accelerated")
	checkFull(t, c, tag, content[:2], result.Platforms[0])
	image, err := c.Resolve(t.Context(), tag, arm())
	if err != nil || image.Digest != result.Platforms[1].FullManifest || len(image.Layers) != 3 {
		t.Errorf("other platform: %v", err)
	}
}

// An image in full mode has the trace of its source, also one recorded later.
func TestFullHasTraces(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	r.Push(t, "app:v1", registrytest.Image{Layers: layers(t)[:1]})
	ref, tag := r.Ref(t, "app:v1"), r.Ref(t, "app:v1_accelerated")
	mustConvert(t, c, ref, convert.Config{})
	source, err := c.Resolve(t.Context(), ref, linux())
	if err != nil {
		t.Fatal(err)
	}
	source.Name = ref.Context().Digest(source.Digest.String()) // so that the tag is left alone
	var previous *registry.Startup
	for _, command := range []string{"first", "second"} {
		content := []byte("trace of " + command)
		if err := c.PushBlob(t.Context(), ref.Context(), content, registry.TraceMediaType); err != nil {
			t.Fatal(err)
		}
		s := registry.Startup{Traces: []registry.TraceBlob{{Digest: block.Sum(content), Size: int64(len(content)), Command: command}}}
		pushed, err := c.PushStartup(t.Context(), source, s, previous, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		previous = &registry.Startup{Created: pushed.Created}
		for range 2 {
			mustConvert(t, c, ref, fullMode())
			image, err := c.Resolve(t.Context(), tag, linux())
			if err != nil {
				t.Fatal(err)
			}
			a, err := c.FindArtifact(t.Context(), image)
			if err != nil || a.Startup == nil || a.Startup.Subject != image.Digest || len(a.Startup.Traces) != 1 || a.Startup.Traces[0].Command != command {
				t.Errorf("after the %s trace: %+v, %v", command, a, err)
			}
		}
	}
}

// A layer in full mode goes into a registry that takes no chunks, and nothing is left behind.
func TestFullWithoutChunks(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	big := registrytest.Tar(t, registrytest.Files(9, 3, 8<<20)...)
	content := stored(t, []registrytest.Layer{{Tar: big, Level: 1}})
	r.Push(t, "app:v1", registrytest.Image{Layers: content})
	r.ResetRequests()
	r.Inject(registrytest.Rule{Fault: registrytest.Status(405), Match: func(req *http.Request) bool { return req.Header.Get("Content-Range") != "" }})
	result := mustConvert(t, c, r.Ref(t, "app:v1"), fullMode())
	checkFull(t, c, r.Ref(t, "app:v1_accelerated"), content, result.Platforms[0])
	chunked := false
	for _, req := range r.Requests() {
		chunked = chunked || req.Method == http.MethodPatch
	}
	if !chunked {
		t.Error("no chunk was sent: the layer is too small for this test")
	}
}
