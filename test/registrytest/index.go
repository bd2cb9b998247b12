package registrytest

import (
	"encoding/json"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Describe returns the descriptor of an image in the registry as an image index lists it.
func (r *Registry) Describe(tb testing.TB, ref name.Reference, platform *v1.Platform) v1.Descriptor {
	tb.Helper()
	got, err := remote.Get(ref, r.pushOptions()...)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	d := got.Descriptor
	d.Platform = platform
	return d
}

// PushEntries puts an image index into the registry under ref that lists what is there already,
// and returns it by digest.
func (r *Registry) PushEntries(tb testing.TB, ref string, entries ...v1.Descriptor) name.Digest {
	tb.Helper()
	content, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: entries})
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	return r.PutManifest(tb, ref, types.OCIImageIndex, content)
}

// PutManifest puts a manifest into the registry under ref as it is, and returns it by digest.
func (r *Registry) PutManifest(tb testing.TB, ref string, mediaType types.MediaType, content []byte) name.Digest {
	tb.Helper()
	target := r.Ref(tb, ref)
	if err := remote.Put(target, manifest{content, mediaType}, r.pushOptions()...); err != nil {
		tb.Fatalf("registrytest: pushing %s: %v", ref, err)
	}
	return target.Context().Digest(sum(tb, content).String())
}

// manifest implements remote.Taggable.
type manifest struct {
	content   []byte
	mediaType types.MediaType
}

func (m manifest) RawManifest() ([]byte, error)        { return m.content, nil }
func (m manifest) MediaType() (types.MediaType, error) { return m.mediaType, nil }

// Manifest returns a manifest of the registry as it is.
func (r *Registry) Manifest(tb testing.TB, ref string) []byte {
	tb.Helper()
	got, err := remote.Get(r.Ref(tb, ref), r.pushOptions()...)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	return got.Manifest
}

// PushArtifact puts an artifact into the registry under ref, with an empty configuration and the
// given layers, and returns it by digest.
func (r *Registry) PushArtifact(tb testing.TB, ref, artifactType string, layers ...Layer) name.Digest {
	tb.Helper()
	return r.PutManifest(tb, ref, types.OCIManifestSchema1, r.artifact(tb, r.Ref(tb, ref).Context(), artifactType, nil, layers))
}

// PushReferrer puts an artifact into a repository that refers to a manifest.
func (r *Registry) PushReferrer(tb testing.TB, repository, artifactType string, subject v1.Descriptor, layers ...Layer) name.Digest {
	tb.Helper()
	subject = v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest}
	content := r.artifact(tb, r.Repository(tb, repository), artifactType, &subject, layers)
	return r.PutManifest(tb, repository+"@"+sum(tb, content).String(), types.OCIManifestSchema1, content)
}

// artifact pushes the blobs of an artifact and returns its manifest.
func (r *Registry) artifact(tb testing.TB, repo name.Repository, artifactType string, subject *v1.Descriptor, layers []Layer) []byte {
	tb.Helper()
	const emptyType = "application/vnd.oci.empty.v1+json"
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifactType, Layers: []v1.Descriptor{}, Subject: subject,
	}
	for i, l := range append([]Layer{{Blob: []byte("{}"), MediaType: emptyType}}, layers...) {
		stored := newLayer(tb, l, false)
		if err := remote.WriteLayer(repo, stored, r.pushOptions()...); err != nil {
			tb.Fatalf("registrytest: pushing to %s: %v", repo, err)
		}
		d := v1.Descriptor{MediaType: stored.mediaType, Size: int64(len(stored.blob)), Digest: stored.digest}
		if i == 0 {
			m.Config = d
			continue
		}
		m.Layers = append(m.Layers, d)
	}
	content, err := json.Marshal(m)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	return content
}
