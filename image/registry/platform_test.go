package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// variants are platforms that differ in one thing each.
func variants() []v1.Platform {
	return []v1.Platform{
		{OS: "linux", Architecture: "amd64"},
		{OS: "linux", Architecture: "amd64", OSFeatures: []string{"erofs"}},
		{OS: "linux", Architecture: "amd64", Variant: "v2"},
		{OS: "linux", Architecture: "amd64", Variant: "v3"},
		{OS: "linux", Architecture: "386"},
		{OS: "linux", Architecture: "arm64", Variant: "v8"},
		{OS: "linux", Architecture: "arm64"},
		{OS: "linux", Architecture: "arm", Variant: "v6"},
		{OS: "linux", Architecture: "arm", Variant: "v7"},
		{OS: "linux", Architecture: "arm", Variant: "v8"},
		{OS: "linux", Architecture: "arm"},
		{OS: "windows", Architecture: "amd64", OSVersion: "10.0.17763.1000"},
		{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.1000"},
		{OS: "windows", Architecture: "amd64", OSVersion: "10.0.26100.1000", OSFeatures: []string{"win32k"}},
		{OS: "unknown", Architecture: "unknown"},
	}
}

// Whatever an image index lists, nested ones included, the image is the one that containerd takes.
// Its own code is the oracle.
func TestPlatformIsChosenAsContainerdDoes(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t, registry.Config{})
	asked := append(variants()[:len(variants())-1], v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v9"})
	store := blobs{}
	entries := make([]v1.Descriptor, 0, len(variants()))
	for i, p := range variants() {
		ref := r.Push(t, "app:v", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, uint64(i))}, Platform: p})
		entries = append(entries, r.Describe(t, ref, &p))
	}
	store.add(t, c, r, entries...)
	const seed = 7
	rng := rand.New(rand.NewPCG(seed, seed))
	chosen := 0
	for n := range 40 {
		root := randomIndex(t, r, rng, entries, 1)
		store.add(t, c, r, root)
		for _, p := range asked {
			want := store.choose(t, root, p)
			got, err := c.Resolve(t.Context(), r.Ref(t, "app@"+root.Digest.String()), p)
			if want == "" {
				continue // containerd finds nothing: ours may find what lies elsewhere
			}
			chosen++
			if err != nil || got.Digest.String() != want {
				t.Fatalf("index %d for %s: containerd takes %s, got %+v, %v", n, registry.FormatPlatform(p), want, got, err)
			}
		}
	}
	if chosen < 100 {
		t.Errorf("containerd found only %d images: the test compares too little", chosen)
	}
}

// randomIndex pushes an image index with some of the entries, of which some name no platform.
func randomIndex(t *testing.T, r *registrytest.Registry, rng *rand.Rand, entries []v1.Descriptor, depth int) v1.Descriptor {
	t.Helper()
	var listed []v1.Descriptor
	for _, i := range rng.Perm(len(entries))[:1+rng.IntN(7)] {
		d := entries[i]
		if rng.IntN(12) == 0 && d.Platform.OS != "unknown" {
			d.Platform = nil
		}
		listed = append(listed, d)
	}
	if depth < 3 && rng.IntN(3) == 0 {
		nested := randomIndex(t, r, rng, entries, depth+1)
		if rng.IntN(2) == 0 {
			nested.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
		}
		listed = append(listed, nested)
	}
	return r.Describe(t, r.PushEntries(t, "app:index", listed...), nil)
}

// blobs is a content.Provider of manifests and configurations.
type blobs map[digest.Digest][]byte

// add stores manifests with all that they name, but for layers.
func (b blobs) add(t *testing.T, c *registry.Client, r *registrytest.Registry, manifests ...v1.Descriptor) {
	t.Helper()
	for _, d := range manifests {
		raw := r.Manifest(t, "app@"+d.Digest.String())
		b[digest.Digest(d.Digest.String())] = raw
		if d.MediaType.IsIndex() {
			index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			b.add(t, c, r, index.Manifests...)
			continue
		}
		manifest, err := v1.ParseManifest(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		config, err := block.ParseDigest(manifest.Config.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		stored, err := c.ReadBlob(t.Context(), r.Repository(t, "app"), config, manifest.Config.Size, registry.MaxConfig)
		if err != nil {
			t.Fatal(err)
		}
		b[digest.Digest(config.String())] = stored
	}
}

// choose returns the digest of the manifest that containerd takes, "" if none.
func (b blobs) choose(t *testing.T, root v1.Descriptor, p v1.Platform) string {
	t.Helper()
	target := ocispec.Descriptor{MediaType: string(root.MediaType), Digest: digest.Digest(root.Digest.String()), Size: root.Size}
	matcher := platforms.Only(ocispec.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	})
	manifest, err := images.Manifest(t.Context(), b, target, matcher)
	if errdefs.IsNotFound(err) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range b {
		var m ocispec.Manifest
		if json.Unmarshal(raw, &m) == nil && m.Config.Digest == manifest.Config.Digest && len(m.Layers) > 0 {
			return name.String()
		}
	}
	t.Fatalf("containerd took a manifest that is not there: %+v", manifest)
	return ""
}

// ReaderAt implements content.Provider.
func (b blobs) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	raw, ok := b[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, errdefs.ErrNotFound)
	}
	return blobReader{bytes.NewReader(raw)}, nil
}

type blobReader struct{ *bytes.Reader }

func (blobReader) Close() error { return nil }

// An image index may list anything. What is no image is named with the reason, and hides nothing.
func TestListing(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t, registry.Config{})
	plain := r.Push(t, "app:plain", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}})
	arm := v1.Platform{OS: "linux", Architecture: "arm64"}
	other := r.Push(t, "app:arm", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 2)}, Platform: arm})
	here := linux()
	artifact := r.PushArtifact(t, "app:model", "application/vnd.cncf.model.manifest.v1+json")
	attestation := r.Describe(t, plain, &v1.Platform{OS: "unknown", Architecture: "unknown"})
	said := r.Describe(t, artifact, &here)
	said.ArtifactType = "application/vnd.cncf.model.manifest.v1+json"
	unsaid := r.Describe(t, artifact, &here)
	unsaid.ArtifactType = ""
	deep := r.Describe(t, r.PushEntries(t, "app:deep", r.Describe(t, other, &arm)), nil)
	nested := r.Describe(t, r.PushEntries(t, "app:nested", deep), nil)
	index := r.PushEntries(t, "app:v1", attestation, said, unsaid, nested, r.Describe(t, plain, &here))

	image, err := c.Resolve(t.Context(), index, linux())
	if err != nil || image.Digest.String() != plain.DigestStr() {
		t.Errorf("resolved %+v, %v", image, err)
	}
	l, err := c.ResolveAll(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Images) != 2 || l.Images[0].Digest.String() != other.DigestStr() || l.Images[1].Digest.String() != plain.DigestStr() {
		t.Errorf("%d images", len(l.Images))
	}
	if len(l.Members) != 5 || l.Digest.String() != index.DigestStr() {
		t.Errorf("%d members of %s", len(l.Members), l.Digest)
	}
	if len(l.Skipped) != 2 || !strings.Contains(l.Skipped[0].Reason, "artifact of type") || !strings.Contains(l.Skipped[1].Reason, "not a container image") {
		t.Errorf("skipped %+v", l.Skipped)
	}
	chosen, err := l.Choose(arm)
	if err != nil || chosen.Digest.String() != other.DigestStr() {
		t.Errorf("chose %+v, %v", chosen, err)
	}
	if _, err := l.Choose(v1.Platform{OS: "linux", Architecture: "s390x"}); !errors.Is(err, block.ErrNotFound) || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("missing platform: %v", err)
	}
	if _, err := c.ResolveAll(t.Context(), r.PushEntries(t, "app:v2", said)); !errors.Is(err, registry.ErrInvalid) || !strings.Contains(err.Error(), "artifact of type") {
		t.Errorf("nothing but artifacts: %v", err)
	}
	if _, err := c.Resolve(t.Context(), r.PushEntries(t, "app:v3", unsaid), linux()); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("an artifact alone: %v", err)
	}
}

// Image indexes in image indexes end somewhere.
func TestNestingIsBounded(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t, registry.Config{})
	here := linux()
	d := r.Describe(t, r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}}), &here)
	for depth := range 7 {
		index := r.PushEntries(t, "app:v1", d)
		_, err := c.Resolve(t.Context(), index, here)
		if deep := depth > 4; deep != errors.Is(err, registry.ErrInvalid) || (!deep && err != nil) {
			t.Errorf("depth %d: %v", depth, err)
		}
		d = r.Describe(t, index, nil)
	}
}

func TestParsePlatform(t *testing.T) {
	for text, want := range map[string]v1.Platform{
		"":                      {},
		"linux/amd64":           {OS: "linux", Architecture: "amd64"},
		"linux/arm/v6":          {OS: "linux", Architecture: "arm", Variant: "v6"},
		"linux(+erofs)/amd64":   {OS: "linux", Architecture: "amd64", OSFeatures: []string{"erofs"}},
		"windows(10.0.1)/amd64": {OS: "windows", Architecture: "amd64", OSVersion: "10.0.1"},
	} {
		got, err := registry.ParsePlatform(text)
		if err != nil || !got.Equals(want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if back := registry.FormatPlatform(got); back != text {
			t.Errorf("%q is written %q", text, back)
		}
	}
	if _, err := registry.ParsePlatform("linux/amd64/v2/x/y"); err == nil {
		t.Error("accepted a bad platform")
	}
}

func TestLayerIsTar(t *testing.T) {
	for mediaType, want := range map[types.MediaType]bool{
		types.OCILayer: true, types.OCILayerZStd: true, types.OCIUncompressedLayer: true, types.DockerLayer: true,
		types.DockerUncompressedLayer: true, types.DockerForeignLayer: true, types.OCIRestrictedLayer: true,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":         true,
		"application/vnd.erofs.layer.v1":                            false,
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":     false,
		"application/vnd.oci.image.layer.v1.squashfs":               false,
		"application/vnd.docker.image.rootfs.diff.tar.gzip.unknown": false,
		"": false,
	} {
		if got := (registry.Layer{MediaType: mediaType}).IsTar(); got != want {
			t.Errorf("%q: %t", mediaType, got)
		}
	}
}
