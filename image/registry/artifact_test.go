package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func subject() v1.Descriptor {
	return v1.Descriptor{
		MediaType: types.OCIManifestSchema1, Size: 123,
		Digest:   v1.Hash{Algorithm: "sha256", Hex: block.Sum([]byte("subject")).Hex()},
		Platform: &v1.Platform{OS: "linux", Architecture: "amd64"},
	}
}

func indexBlob(name string) registry.IndexBlob {
	return registry.IndexBlob{
		Layer: block.Sum([]byte("layer " + name)), DiffID: block.Sum([]byte("stream " + name)),
		Digest: block.Sum([]byte("index " + name)), Size: int64(len(name)),
	}
}

func TestArtifactRoundTrip(t *testing.T) {
	headed := indexBlob("headed")
	headed.Head = index.Head{Size: 3, Digest: block.Sum([]byte("hea"))}
	manifest, err := registry.EncodeArtifact(subject(), []registry.IndexBlob{indexBlob("a"), indexBlob("bb"), indexBlob("a"), headed})
	if err != nil {
		t.Fatal(err)
	}
	got, err := registry.ParseArtifact(manifest)
	if err != nil {
		t.Fatal(err)
	}
	want := &registry.Artifact{
		Digest: block.Sum(manifest), Subject: block.Sum([]byte("subject")),
		Indexes: []registry.IndexBlob{indexBlob("a"), indexBlob("bb"), headed},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if b, ok := got.Index(indexBlob("bb").Layer); !ok || b != indexBlob("bb") {
		t.Errorf("index of layer bb: %v %t", b, ok)
	}
}

// The manifest is part of the format: another implementation must make the same.
func TestArtifactManifest(t *testing.T) {
	manifest, err := registry.EncodeArtifact(subject(), []registry.IndexBlob{indexBlob("a")})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(manifest, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"schemaVersion": 2.0,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"artifactType":  "application/vnd.brisk.index.v1",
		"config": map[string]any{
			"mediaType": "application/vnd.oci.empty.v1+json", "size": 2.0,
			"digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
		},
		"layers": []any{map[string]any{
			"mediaType": "application/vnd.brisk.layer.v1+zstd", "size": 1.0,
			"digest": indexBlob("a").Digest.String(),
			"annotations": map[string]any{
				"dev.brisk.layer.diffid": indexBlob("a").DiffID.String(),
				"dev.brisk.layer.digest": indexBlob("a").Layer.String(),
			},
		}},
		"subject": map[string]any{
			"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 123.0,
			"digest": block.Sum([]byte("subject")).String(),
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseArtifactRefuses(t *testing.T) {
	headed := indexBlob("a")
	headed.Size, headed.Head = 9, index.Head{Size: 8, Digest: block.Sum([]byte("head"))}
	valid, err := registry.EncodeArtifact(subject(), []registry.IndexBlob{headed})
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, with string) []byte { return bytes.Replace(valid, []byte(old), []byte(with), 1) }
	for name, manifest := range map[string][]byte{
		"nothing":                nil,
		"no JSON":                []byte("{"),
		"an array":               []byte("[]"),
		"two values":             append(bytes.Clone(valid), '1'),
		"another type":           replace(registry.ArtifactType, "application/vnd.other"),
		"no subject":             replace(`"subject"`, `"object"`),
		"no diffID":              replace(registry.AnnotationDiffID, "other"),
		"no layer":               replace(registry.AnnotationLayer, "other"),
		"a bad digest":           replace(indexBlob("a").Digest.Hex(), strings.Repeat("z", 64)),
		"another hash":           replace(indexBlob("a").Layer.String(), "sha512:"+strings.Repeat("0", 128)),
		"size of nothing":        replace(`"size":9,`, `"size":0,`),
		"size below zero":        replace(`"size":9,`, `"size":-1,`),
		"no digest of the head":  replace(registry.AnnotationHeadDigest, "other"),
		"no size of the head":    replace(registry.AnnotationHeadSize, "other"),
		"a head of everything":   replace(`"size":9,`, `"size":8,`),
		"a head of nothing":      replace(`"8"`, `"0"`),
		"a head of many":         replace(`"8"`, `"eight"`),
		"a bad digest of a head": replace(headed.Head.Digest.Hex(), strings.Repeat("z", 64)),
		"too long":               bytes.Repeat([]byte(" "), registry.MaxManifest+1),
	} {
		if _, err := registry.ParseArtifact(manifest); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What a newer writer added is passed over.
	other := replace(string(registry.LayerMediaType), "application/vnd.brisk.trace.v9")
	if a, err := registry.ParseArtifact(other); err != nil || len(a.Indexes) != 0 {
		t.Errorf("unknown blob: %v, %v", a, err)
	}
}

func FuzzParseArtifact(f *testing.F) {
	for _, indexes := range [][]registry.IndexBlob{nil, {indexBlob("a")}, {indexBlob("a"), indexBlob("b")}} {
		manifest, err := registry.EncodeArtifact(subject(), indexes)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(manifest)
	}
	f.Add([]byte(`{"artifactType":"application/vnd.brisk.index.v1","subject":{"digest":"sha256:00"},"layers":[{}]}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		a, err := registry.ParseArtifact(manifest)
		if err != nil {
			if !errors.Is(err, registry.ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			return
		}
		s := subject()
		s.Digest = v1.Hash{Algorithm: "sha256", Hex: a.Subject.Hex()}
		again, err := registry.EncodeArtifact(s, a.Indexes)
		if err != nil {
			t.Fatal(err)
		}
		b, err := registry.ParseArtifact(again)
		if err != nil {
			t.Fatal(err)
		}
		a.Digest, b.Digest = block.Digest{}, block.Digest{}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatal(diff)
		}
	})
}

// A broken artifact does not hide a good one, nor does an artifact of somebody
// else, and the one that covers more layers wins.
func TestFindArtifactAmongOthers(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		r := registrytest.New(t, registrytest.Config{Referrers: referrers})
		c := newClient(t, registry.Config{})
		layers := []registrytest.Layer{smallLayer(t, 1), smallLayer(t, 2)}
		ref := r.Push(t, "app:v1", registrytest.Image{Layers: layers})
		image, err := c.Resolve(t.Context(), ref, linux())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.FindArtifact(t.Context(), image); !errors.Is(err, registry.ErrNoArtifact) {
			t.Errorf("before there is one: %v", err)
		}
		var indexes []registry.IndexBlob
		for _, l := range image.Layers {
			content := []byte("index of " + l.Digest.String())
			if err := c.PushBlob(t.Context(), ref.Context(), content, registry.LayerMediaType); err != nil {
				t.Fatal(err)
			}
			indexes = append(indexes, registry.IndexBlob{Layer: l.Digest, DiffID: l.DiffID, Digest: block.Sum(content), Size: int64(len(content))})
		}
		partly, err := registry.EncodeArtifact(image.Descriptor, indexes[:1])
		if err != nil {
			t.Fatal(err)
		}
		whole, err := registry.EncodeArtifact(image.Descriptor, indexes)
		if err != nil {
			t.Fatal(err)
		}
		broken := bytes.Replace(whole, []byte(registry.AnnotationDiffID), []byte("dev.brisk.other"), 1)
		foreign := bytes.Replace(whole, []byte(registry.ArtifactType), []byte("application/vnd.other"), 1)
		for i, manifest := range [][]byte{broken, foreign, partly, whole} {
			if err := c.PushArtifact(t.Context(), ref.Context(), manifest); err != nil {
				t.Fatal(err)
			}
			got, err := c.FindArtifact(t.Context(), image)
			switch i {
			case 0, 1:
				if !errors.Is(err, registry.ErrNoArtifact) {
					t.Errorf("referrers %t, step %d: %v, %v", referrers, i, got, err)
				}
			default:
				if err != nil || got.Digest != block.Sum(manifest) {
					t.Errorf("referrers %t, step %d: %v, %v", referrers, i, got, err)
				}
			}
		}
	}
}

// The tag of an accelerated image is an ordinary image to those who do not know
// better.
func TestAcceleratedIsOrdinary(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t, registry.Config{})
	ref := r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}})
	image, err := c.Resolve(t.Context(), ref, linux())
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := registry.EncodeArtifact(image.Descriptor, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PushArtifact(t.Context(), ref.Context(), artifact); err != nil {
		t.Fatal(err)
	}
	manifest, err := registry.EncodeAccelerated(listing(image), []registry.Descriptor{
		{Digest: block.Sum(artifact), Size: int64(len(artifact)), Subject: image.Digest},
	})
	if err != nil {
		t.Fatal(err)
	}
	tag := registry.AcceleratedTag(ref.Context().Tag("v1"))
	for i, want := range []bool{true, false} {
		pushed, err := c.PushAccelerated(t.Context(), tag, manifest)
		if err != nil || pushed != want {
			t.Errorf("push %d: %t, %v", i, pushed, err)
		}
	}
	pulled, err := remote.Image(tag, remote.WithPlatform(linux()))
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := pulled.Digest(); err != nil || digest.String() != image.Digest.String() {
		t.Errorf("pulled %s, %v", digest, err)
	}
}

// A registry that refuses to list referrers is asked for the tag; what it refused
// is the answer when there is no tag either.
func TestReferrersRefused(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t, registry.Config{})
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}})
	image, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux())
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := registry.EncodeArtifact(image.Descriptor, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PushArtifact(t.Context(), image.Name.Context(), artifact); err != nil {
		t.Fatal(err)
	}
	r.Inject(registrytest.Rule{Fault: registrytest.Status(http.StatusMethodNotAllowed), Match: func(req *http.Request) bool {
		return strings.Contains(req.URL.Path, "/referrers/")
	}})
	if _, err := c.FindArtifact(t.Context(), image); err == nil || errors.Is(err, registry.ErrNoArtifact) {
		t.Errorf("without a tag: %v", err)
	}
	manifest, err := registry.EncodeAccelerated(listing(image), []registry.Descriptor{
		{Digest: block.Sum(artifact), Size: int64(len(artifact)), Subject: image.Digest},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PushAccelerated(t.Context(), image.Name.Context().Tag("v1_accelerated"), manifest); err != nil {
		t.Fatal(err)
	}
	if got, err := c.FindArtifact(t.Context(), image); err != nil || got.Digest != block.Sum(artifact) {
		t.Errorf("with a tag: %v, %v", got, err)
	}
}

// While the referrers do not answer, the tag is looked at. Those that answer late come first, and
// without anything under the tag they are waited for.
func TestReferrersSideBySide(t *testing.T) {
	t.Parallel()
	const stall = 10 * time.Second
	r := registrytest.New(t, registrytest.Config{Referrers: true})
	c := newClient(t, registry.Config{StallTimeout: stall})
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}})
	image, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux())
	if err != nil {
		t.Fatal(err)
	}
	repo := image.Name.Context()
	put := func(indexes ...registry.IndexBlob) []byte {
		t.Helper()
		r.ClearFaults()
		artifact, err := registry.EncodeArtifact(image.Descriptor, indexes)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.PushArtifact(t.Context(), repo, artifact); err != nil {
			t.Fatal(err)
		}
		return artifact
	}
	find := func(late time.Duration) (*registry.Artifact, time.Duration, error) {
		t.Helper()
		r.ClearFaults()
		r.Inject(registrytest.Rule{
			Match: func(req *http.Request) bool { return strings.Contains(req.URL.Path, "/referrers/") },
			Fault: func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				select {
				case <-time.After(late):
					next.ServeHTTP(w, req)
				case <-req.Context().Done():
				}
			},
		})
		begin := time.Now()
		got, err := c.FindArtifact(t.Context(), image)
		return got, time.Since(begin), err
	}
	first := put()
	if got, _, err := find(time.Second); err != nil || got.Digest != block.Sum(first) {
		t.Errorf("late, without a tag: %v, %v", got, err)
	}
	if _, _, err := find(time.Hour); !errors.Is(err, block.ErrUnavailable) {
		t.Errorf("never, without a tag: %v", err)
	}
	manifest, err := registry.EncodeAccelerated(listing(image), []registry.Descriptor{
		{Digest: block.Sum(first), Size: int64(len(first)), Subject: image.Digest},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PushAccelerated(t.Context(), repo.Tag("v1_accelerated"), manifest); err != nil {
		t.Fatal(err)
	}
	better := put(registry.IndexBlob{
		Layer: image.Layers[0].Digest, DiffID: image.Layers[0].DiffID, Digest: block.Sum([]byte("x")), Size: 1,
	})
	if got, took, err := find(time.Hour); err != nil || got.Digest != block.Sum(first) || took > stall/2 {
		t.Errorf("never, with a tag: %v, %v after %s", got, err, took)
	}
	// On a busy machine "at once" may be later than the tag is looked at.
	for attempt := range 20 {
		got, _, err := find(0)
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest == block.Sum(better) {
			break
		}
		if attempt == 19 {
			t.Errorf("at once: %v", got)
		}
	}
}

// listing lists one image as an image index would.
func listing(image *registry.Image) *registry.Listing {
	platform, d := image.Platform(), image.Descriptor
	d.Platform = &platform
	return &registry.Listing{Images: []*registry.Image{image}, Members: []v1.Descriptor{d}}
}
