package registrytest

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Layer is one layer of a test image.
type Layer struct {
	Tar         []byte
	Compression Compression
	// Level is the compression level, 1 to 9. Default 6.
	Level int
	// FrameSize is how many bytes of the tar a zstd frame holds. 0 makes one frame.
	FrameSize int
	// MediaType overrides the one that fits image and compression.
	MediaType types.MediaType
	// DiffID overrides the digest of Tar in the image's configuration.
	DiffID string
	// Blob overrides the stored form of Tar.
	Blob []byte
	// URLs is where a foreign layer says it can be found.
	URLs []string
}

// Image is a test image.
type Image struct {
	Layers []Layer
	// Docker makes it a Docker schema 2 image; otherwise it is an OCI image.
	Docker bool
	// Platform is linux/amd64 by default.
	Platform v1.Platform
	// Config, if not nil, edits the container configuration.
	Config func(*v1.Config)
}

// Push puts an image into the registry under ref, such as "some/image:v1", and
// returns it by digest.
func (r *Registry) Push(tb testing.TB, ref string, img Image) name.Digest {
	tb.Helper()
	built := Build(tb, img)
	target := r.Ref(tb, ref)
	if err := remote.Write(target, built, append(r.pushOptions(), remote.WithNondistributable)...); err != nil {
		tb.Fatalf("registrytest: pushing %s: %v", ref, err)
	}
	return digestOf(tb, target, built)
}

// PushIndex puts a multi-platform image into the registry under ref, and returns
// it by digest.
func (r *Registry) PushIndex(tb testing.TB, ref string, images ...Image) name.Digest {
	tb.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	if len(images) > 0 && images[0].Docker {
		index = mutate.IndexMediaType(empty.Index, types.DockerManifestList)
	}
	for _, img := range images {
		platform := platformOf(img)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: Build(tb, img), Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	target := r.Ref(tb, ref)
	if err := remote.WriteIndex(target, index, r.pushOptions()...); err != nil {
		tb.Fatalf("registrytest: pushing %s: %v", ref, err)
	}
	return digestOf(tb, target, index)
}

// Build makes the image without pushing it.
func Build(tb testing.TB, img Image) v1.Image {
	tb.Helper()
	built := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	built = mutate.ConfigMediaType(built, types.OCIConfigJSON)
	if img.Docker {
		built = mutate.MediaType(empty.Image, types.DockerManifestSchema2)
		built = mutate.ConfigMediaType(built, types.DockerConfigJSON)
	}
	platform := platformOf(img)
	file := &v1.ConfigFile{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant}
	file.RootFS.Type = "layers"
	if img.Config != nil {
		img.Config(&file.Config)
	}
	built, err := mutate.ConfigFile(built, file)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	for _, l := range img.Layers {
		stored := newLayer(tb, l, img.Docker)
		built, err = mutate.Append(built, mutate.Addendum{Layer: stored, MediaType: stored.mediaType, URLs: l.URLs})
		if err != nil {
			tb.Fatalf("registrytest: %v", err)
		}
	}
	return built
}

func platformOf(img Image) v1.Platform {
	if img.Platform.OS == "" {
		return v1.Platform{OS: "linux", Architecture: "amd64"}
	}
	return img.Platform
}

func digestOf(tb testing.TB, ref name.Reference, m interface{ Digest() (v1.Hash, error) }) name.Digest {
	tb.Helper()
	digest, err := m.Digest()
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	return ref.Context().Digest(digest.String())
}

// storedLayer implements v1.Layer.
type storedLayer struct {
	tar, blob      []byte
	digest, diffID v1.Hash
	mediaType      types.MediaType
}

func newLayer(tb testing.TB, l Layer, docker bool) *storedLayer {
	tb.Helper()
	blob := l.Blob
	if blob == nil {
		blob = Compress(tb, l)
	}
	s := &storedLayer{tar: l.Tar, blob: blob, mediaType: mediaTypeOf(l, docker), digest: sum(tb, blob), diffID: sum(tb, l.Tar)}
	if l.DiffID != "" {
		diffID, err := v1.NewHash(l.DiffID)
		if err != nil {
			tb.Fatalf("registrytest: %v", err)
		}
		s.diffID = diffID
	}
	return s
}

func sum(tb testing.TB, data []byte) v1.Hash {
	tb.Helper()
	hash, _, err := v1.SHA256(bytes.NewReader(data))
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	return hash
}

func mediaTypeOf(l Layer, docker bool) types.MediaType {
	switch {
	case l.MediaType != "":
		return l.MediaType
	case docker && l.Compression == None:
		return types.DockerUncompressedLayer
	case docker:
		return types.DockerLayer
	case l.Compression == None:
		return types.OCIUncompressedLayer
	case l.Compression == Zstd:
		return types.OCILayerZStd
	default:
		return types.OCILayer
	}
}

func (s *storedLayer) Digest() (v1.Hash, error)             { return s.digest, nil }
func (s *storedLayer) DiffID() (v1.Hash, error)             { return s.diffID, nil }
func (s *storedLayer) Size() (int64, error)                 { return int64(len(s.blob)), nil }
func (s *storedLayer) MediaType() (types.MediaType, error)  { return s.mediaType, nil }
func (s *storedLayer) Compressed() (io.ReadCloser, error)   { return body(s.blob), nil }
func (s *storedLayer) Uncompressed() (io.ReadCloser, error) { return body(s.tar), nil }

func body(data []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(data)) }
