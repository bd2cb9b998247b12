package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/internal/block"
)

// The names under which indexes live in registries. docs/format.md has them too.
const (
	// ArtifactType is the artifact type of an index artifact.
	ArtifactType = "application/vnd.brisk.index.v1"
	// LayerMediaType is the media type of a layer index. Its version is that of
	// the index format.
	LayerMediaType types.MediaType = "application/vnd.brisk.layer.v1+zstd"
	// AnnotationDiffID names, on a layer index, the layer stream it describes.
	AnnotationDiffID = "dev.brisk.layer.diffid"
	// AnnotationLayer names, on a layer index, the stored blob it was made from.
	AnnotationLayer = "dev.brisk.layer.digest"
	// AnnotationHeadSize and AnnotationHeadDigest give, on a layer index, length in bytes and digest
	// of its head: all but the windows of its checkpoints. They are there together or not at all.
	AnnotationHeadSize   = "dev.brisk.layer.head.size"
	AnnotationHeadDigest = "dev.brisk.layer.head.digest"
	// AnnotationSubject names, on an artifact listed in an image index, the
	// platform manifest that the artifact belongs to.
	AnnotationSubject = "dev.brisk.subject"
	// AnnotationBase names, on an accelerated image index, the manifest or image index that its
	// tag had when it was made: the tag has moved since if it has another one.
	AnnotationBase = "dev.brisk.base.digest"
	// AcceleratedSuffix is what the tag of an accelerated image index ends in.
	AcceleratedSuffix = "_accelerated"
)

const (
	// unknown is the platform of what no runtime may pick from an image index.
	unknown = "unknown"
	// emptyMediaType is that of the empty configuration of an artifact.
	emptyMediaType types.MediaType = "application/vnd.oci.empty.v1+json"
	// maxIndexes is the most layer indexes of one artifact.
	maxIndexes = 4096
)

// emptyContent is the empty configuration of an artifact.
func emptyContent() []byte { return []byte("{}") }

// IndexBlob is one layer index as an artifact lists it.
type IndexBlob struct {
	Layer  block.Digest // digest of the stored layer blob that was indexed
	DiffID block.Digest // digest of its layer stream
	Digest block.Digest // digest of the index
	Size   int64        // of the index, in bytes
	Head   index.Head   // what a mount needs of it, zero for all
}

// Artifact is an index artifact.
type Artifact struct {
	// Digest is that of the artifact's manifest.
	Digest block.Digest
	// Subject is the digest of the platform manifest it belongs to.
	Subject block.Digest
	// Indexes are in the order of the manifest.
	Indexes []IndexBlob
	// Traces are those in the artifact itself, in the order of the manifest: predicted ones.
	Traces []TraceBlob
	// Startup is the start-up artifact of the image, set by [Client.FindArtifact]; nil if none
	// was found.
	Startup *Startup
	// Signature is why the artifact is trusted, set by [Client.FindArtifact]; nil if it needs none.
	Signature *signature.Signature
}

// Index returns the index of a layer blob.
func (a *Artifact) Index(layer block.Digest) (IndexBlob, bool) {
	i := slices.IndexFunc(a.Indexes, func(b IndexBlob) bool { return b.Layer == layer })
	if i < 0 {
		return IndexBlob{}, false
	}
	return a.Indexes[i], true
}

// EncodeArtifact returns the manifest of an artifact for a subject. The same
// arguments give the same bytes. Layers that occur more than once in indexes are
// listed once. Traces are predicted ones; recorded ones belong into a start-up artifact.
func EncodeArtifact(subject v1.Descriptor, indexes []IndexBlob, traces ...TraceBlob) ([]byte, error) {
	manifest, err := artifactManifest(ArtifactType, subject)
	if err != nil {
		return nil, err
	}
	seen := make(map[block.Digest]bool, len(indexes))
	for _, b := range indexes {
		if seen[b.Layer] {
			continue
		}
		seen[b.Layer] = true
		manifest.Layers = append(manifest.Layers, indexDescriptor(b))
	}
	for _, t := range traces {
		manifest.Layers = append(manifest.Layers, traceDescriptor(t))
	}
	return encodeManifest(manifest)
}

func indexDescriptor(b IndexBlob) v1.Descriptor {
	annotations := map[string]string{AnnotationDiffID: b.DiffID.String(), AnnotationLayer: b.Layer.String()}
	if b.Head.Size > 0 {
		annotations[AnnotationHeadSize] = strconv.FormatInt(b.Head.Size, 10)
		annotations[AnnotationHeadDigest] = b.Head.Digest.String()
	}
	return v1.Descriptor{MediaType: LayerMediaType, Size: b.Size, Digest: hash(b.Digest), Annotations: annotations}
}

// artifactManifest returns the manifest of an artifact for a subject, without blobs.
func artifactManifest(artifactType string, subject v1.Descriptor) (v1.Manifest, error) {
	empty, err := descriptor(emptyMediaType, emptyContent())
	if err != nil {
		return v1.Manifest{}, err
	}
	return v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		ArtifactType:  artifactType,
		Config:        empty,
		Layers:        []v1.Descriptor{},
		// Nothing but what identifies it: where the subject was found must not change
		// the artifact.
		Subject: &v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest},
	}, nil
}

// ParseArtifact reads the manifest of an artifact. Blobs of media types it does
// not know are left out. Errors wrap [ErrInvalid].
func ParseArtifact(manifest []byte) (*Artifact, error) {
	m, subject, err := parseArtifactManifest(manifest, ArtifactType, maxIndexes)
	if err != nil {
		return nil, err
	}
	a := &Artifact{Digest: block.Sum(manifest), Subject: subject}
	seen := make(map[block.Digest]bool, len(m.Layers))
	for i, d := range m.Layers {
		if d.MediaType == TraceMediaType && len(a.Traces) < MaxTraces {
			// A trace is a hint: a wrong descriptor of one does not make the index wrong.
			if t, err := parseTraceBlob(d); err == nil {
				a.Traces = append(a.Traces, t)
			}
		}
		if d.MediaType != LayerMediaType {
			continue
		}
		b, err := parseIndexBlob(d)
		if err != nil {
			return nil, fmt.Errorf("%w: artifact manifest: blob %d: %w", ErrInvalid, i, err)
		}
		if seen[b.Layer] {
			return nil, fmt.Errorf("%w: artifact manifest: blob %d: second index of layer %s", ErrInvalid, i, b.Layer)
		}
		seen[b.Layer] = true
		a.Indexes = append(a.Indexes, b)
	}
	return a, nil
}

func parseIndexBlob(d v1.Descriptor) (IndexBlob, error) {
	digest, err := block.ParseDigest(d.Digest.String())
	if err != nil {
		return IndexBlob{}, err
	}
	layer, err := block.ParseDigest(d.Annotations[AnnotationLayer])
	if err != nil {
		return IndexBlob{}, fmt.Errorf("annotation %s: %w", AnnotationLayer, err)
	}
	diffID, err := block.ParseDigest(d.Annotations[AnnotationDiffID])
	if err != nil {
		return IndexBlob{}, fmt.Errorf("annotation %s: %w", AnnotationDiffID, err)
	}
	if d.Size <= 0 || d.Size > MaxIndexBlob {
		return IndexBlob{}, fmt.Errorf("index of %d bytes, the limit is %d", d.Size, MaxIndexBlob)
	}
	head, err := parseHead(d)
	if err != nil {
		return IndexBlob{}, err
	}
	return IndexBlob{Layer: layer, DiffID: diffID, Digest: digest, Size: d.Size, Head: head}, nil
}

// parseHead reads the annotations of the head of an index, which need not be there.
func parseHead(d v1.Descriptor) (index.Head, error) {
	size, sized := d.Annotations[AnnotationHeadSize]
	digest, named := d.Annotations[AnnotationHeadDigest]
	if !sized && !named {
		return index.Head{}, nil
	}
	var head index.Head
	var err error
	if head.Size, err = strconv.ParseInt(size, 10, 64); err != nil || head.Size <= 0 || head.Size >= d.Size {
		return index.Head{}, fmt.Errorf("annotation %s: %.40q of an index of %d bytes", AnnotationHeadSize, size, d.Size)
	}
	if head.Digest, err = block.ParseDigest(digest); err != nil {
		return index.Head{}, fmt.Errorf("annotation %s: %w", AnnotationHeadDigest, err)
	}
	return head, nil
}

// EncodeAccelerated returns the manifest of the image index that lists what base lists and
// artifacts of its images. The images come first, so that a runtime that knows nothing of
// artifacts resolves the image index as it would the original. Artifacts have
// the platform unknown/unknown, as attestations do: no runtime picks that.
func EncodeAccelerated(base *Listing, artifacts []Descriptor) ([]byte, error) {
	annotations := maps.Clone(base.Annotations)
	if annotations == nil {
		annotations = make(map[string]string)
	}
	annotations[AnnotationBase] = base.Digest.String()
	listed := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Annotations: annotations}
	listed.Manifests = append([]v1.Descriptor{}, base.Members...)
	for _, a := range artifacts {
		listed.Manifests = append(listed.Manifests, a.entry())
	}
	return encodeManifest(listed)
}

// Descriptor names an artifact from an image index.
type Descriptor struct {
	Digest  block.Digest // of the artifact's manifest
	Size    int64        // of the artifact's manifest, in bytes
	Subject block.Digest // the platform manifest it belongs to
	// Startup says that it is a start-up artifact, not an index artifact, and Created when
	// that was pushed.
	Startup bool
	Created time.Time
}

// entry returns the entry of the artifact in an image index.
func (d Descriptor) entry() v1.Descriptor {
	entry := v1.Descriptor{
		MediaType:    types.OCIManifestSchema1,
		Size:         d.Size,
		Digest:       hash(d.Digest),
		ArtifactType: ArtifactType,
		Platform:     &v1.Platform{OS: unknown, Architecture: unknown},
		Annotations:  map[string]string{AnnotationSubject: d.Subject.String()},
	}
	if d.Startup {
		entry.ArtifactType = StartupType
		entry.Annotations[AnnotationCreated] = d.Created.UTC().Format(time.RFC3339)
	}
	return entry
}

func encodeManifest(manifest any) ([]byte, error) {
	out, err := json.Marshal(manifest)
	if err != nil {
		return nil, fmt.Errorf("encoding a manifest: %w", err)
	}
	if len(out) > MaxManifest {
		return nil, fmt.Errorf("encoding a manifest: %d bytes, the limit is %d", len(out), MaxManifest)
	}
	return out, nil
}

func descriptor(mediaType types.MediaType, content []byte) (v1.Descriptor, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("hashing a blob: %w", err)
	}
	return v1.Descriptor{MediaType: mediaType, Size: size, Digest: digest}, nil
}
