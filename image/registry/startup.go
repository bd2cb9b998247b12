package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/internal/block"
)

// The names under which traces and bundles live in registries. docs/format.md has them too.
const (
	// StartupType is the artifact type of a start-up artifact.
	StartupType = "application/vnd.brisk.startup.v1"
	// TraceMediaType is the media type of a trace.
	TraceMediaType types.MediaType = "application/vnd.brisk.trace.v1+zstd"
	// BundleMediaType is the media type of a bundle.
	BundleMediaType types.MediaType = "application/vnd.brisk.bundle.v1+zstd"
	// ListMediaType is the media type of a prefetch list as its user has written it.
	ListMediaType types.MediaType = "application/vnd.brisk.prefetch.v1"
	// AnnotationCommand names, on a trace, the command that was run to record it.
	AnnotationCommand = "dev.brisk.trace.command"
	// AnnotationPredicted is "true" on a trace that was derived from the content of the image.
	AnnotationPredicted = "dev.brisk.trace.predicted"
	// AnnotationList is "true" on a trace that reads the files of a prefetch list.
	AnnotationList = "dev.brisk.trace.list"
	// AnnotationCreated says, on a start-up artifact, when it was pushed: an RFC 3339 date.
	AnnotationCreated = "org.opencontainers.image.created"
)

const (
	// MaxTraceBlob is the longest trace in bytes that is read.
	MaxTraceBlob = 1 << 20
	// MaxBundleBlob is the longest bundle in bytes: twice the longest start-up set.
	MaxBundleBlob = 1 << 30
	// MaxListBlob is the longest prefetch list in bytes.
	MaxListBlob = 1 << 20
	// MaxTraces is the most traces of an artifact.
	MaxTraces = 16
	// maxStartupBlobs is the most blobs of a start-up artifact, with those of later versions.
	maxStartupBlobs = 256
)

// TraceBlob is one trace as an artifact lists it.
type TraceBlob struct {
	Digest    block.Digest
	Size      int64
	Command   string // "" if it is not known
	Predicted bool
	List      bool // it reads the files of a prefetch list
}

// ListBlob is a prefetch list as a start-up artifact lists it.
type ListBlob struct {
	Digest block.Digest
	Size   int64
}

// BundleBlob is the bundle as a start-up artifact lists it.
type BundleBlob struct {
	Digest      block.Digest
	Size        int64
	Annotations map[string]string
}

// Startup is a start-up artifact.
type Startup struct {
	// Digest is that of the artifact's manifest, of Size bytes.
	Digest block.Digest
	Size   int64
	// Subject is the digest of the platform manifest it belongs to.
	Subject block.Digest
	// Created is when it was pushed, to the second. Of several artifacts the newest counts.
	Created time.Time
	// Traces are in the order of the manifest.
	Traces []TraceBlob
	// Bundle is nil if there is none.
	Bundle *BundleBlob
	// List is the prefetch list that one of the traces was made of, nil if there is none.
	List *ListBlob
	// Signature is why the artifact is trusted, set by [Client.FindArtifact]; nil if it needs none.
	Signature *signature.Signature
}

// EncodeStartup returns the manifest of a start-up artifact for a subject. The same arguments
// give the same bytes; Digest, Size and Subject of the artifact do not matter.
func EncodeStartup(subject v1.Descriptor, s *Startup) ([]byte, error) {
	if len(s.Traces) > MaxTraces {
		return nil, fmt.Errorf("encoding a start-up artifact: %d traces, the limit is %d", len(s.Traces), MaxTraces)
	}
	manifest, err := artifactManifest(StartupType, subject)
	if err != nil {
		return nil, err
	}
	manifest.Annotations = map[string]string{AnnotationCreated: s.Created.UTC().Format(time.RFC3339)}
	for _, t := range s.Traces {
		manifest.Layers = append(manifest.Layers, traceDescriptor(t))
	}
	if b := s.Bundle; b != nil {
		manifest.Layers = append(manifest.Layers, v1.Descriptor{
			MediaType: BundleMediaType, Size: b.Size, Digest: hash(b.Digest), Annotations: b.Annotations,
		})
	}
	if l := s.List; l != nil {
		manifest.Layers = append(manifest.Layers, v1.Descriptor{MediaType: ListMediaType, Size: l.Size, Digest: hash(l.Digest)})
	}
	return encodeManifest(manifest)
}

func traceDescriptor(t TraceBlob) v1.Descriptor {
	d := v1.Descriptor{MediaType: TraceMediaType, Size: t.Size, Digest: hash(t.Digest)}
	if t.Command != "" || t.Predicted || t.List {
		d.Annotations = make(map[string]string)
	}
	if t.Command != "" {
		d.Annotations[AnnotationCommand] = t.Command
	}
	if t.Predicted {
		d.Annotations[AnnotationPredicted] = "true"
	}
	if t.List {
		d.Annotations[AnnotationList] = "true"
	}
	return d
}

func hash(d block.Digest) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: d.Hex()} }

// ParseStartup reads the manifest of a start-up artifact. Blobs of media types it does not know
// are left out, and so are traces after the first [MaxTraces]. Errors wrap [ErrInvalid].
func ParseStartup(manifest []byte) (*Startup, error) {
	m, subject, err := parseArtifactManifest(manifest, StartupType, maxStartupBlobs)
	if err != nil {
		return nil, err
	}
	s := &Startup{Digest: block.Sum(manifest), Size: int64(len(manifest)), Subject: subject}
	// One without a date, or with a wrong one, is the oldest.
	s.Created, _ = createdOf(m.Annotations)
	for i, d := range m.Layers {
		if err := s.add(d); err != nil {
			return nil, fmt.Errorf("%w: artifact manifest: blob %d: %w", ErrInvalid, i, err)
		}
	}
	return s, nil
}

// add adds a blob that a manifest lists.
func (s *Startup) add(d v1.Descriptor) error {
	switch d.MediaType {
	case TraceMediaType:
		t, err := parseTraceBlob(d)
		if err != nil {
			return err
		}
		if len(s.Traces) < MaxTraces {
			s.Traces = append(s.Traces, t)
		}
	case BundleMediaType:
		if s.Bundle != nil {
			return errors.New("second bundle")
		}
		digest, err := parseBlob(d, MaxBundleBlob)
		if err != nil {
			return err
		}
		s.Bundle = &BundleBlob{Digest: digest, Size: d.Size, Annotations: d.Annotations}
	case ListMediaType:
		if s.List != nil {
			return errors.New("second prefetch list")
		}
		digest, err := parseBlob(d, MaxListBlob)
		if err != nil {
			return err
		}
		s.List = &ListBlob{Digest: digest, Size: d.Size}
	default: // of a later version
	}
	return nil
}

func createdOf(annotations map[string]string) (time.Time, bool) {
	created, err := time.Parse(time.RFC3339, annotations[AnnotationCreated])
	return created.UTC(), err == nil
}

func parseTraceBlob(d v1.Descriptor) (TraceBlob, error) {
	digest, err := parseBlob(d, MaxTraceBlob)
	if err != nil {
		return TraceBlob{}, err
	}
	return TraceBlob{
		Digest: digest, Size: d.Size, Command: d.Annotations[AnnotationCommand],
		Predicted: d.Annotations[AnnotationPredicted] == "true", List: d.Annotations[AnnotationList] == "true",
	}, nil
}

func parseBlob(d v1.Descriptor, limit int64) (block.Digest, error) {
	digest, err := block.ParseDigest(d.Digest.String())
	if err != nil {
		return block.Digest{}, err
	}
	if d.Size <= 0 || d.Size > limit {
		return block.Digest{}, fmt.Errorf("%s of %d bytes, the limit is %d", d.MediaType, d.Size, limit)
	}
	return digest, nil
}

// parseArtifactManifest reads the manifest of an artifact of ours and returns the digest of its
// subject.
func parseArtifactManifest(manifest []byte, artifactType string, maxBlobs int) (*v1.Manifest, block.Digest, error) {
	if len(manifest) > MaxManifest {
		return nil, block.Digest{}, fmt.Errorf("%w: artifact manifest of %d bytes, the limit is %d", ErrInvalid, len(manifest), MaxManifest)
	}
	var m v1.Manifest
	dec := json.NewDecoder(bytes.NewReader(manifest))
	if err := dec.Decode(&m); err != nil {
		return nil, block.Digest{}, fmt.Errorf("%w: artifact manifest: %w", ErrInvalid, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, block.Digest{}, fmt.Errorf("%w: artifact manifest: more than one JSON value", ErrInvalid)
	}
	if m.ArtifactType != artifactType {
		return nil, block.Digest{}, fmt.Errorf("%w: artifact manifest: artifact type %.100q, not %q", ErrInvalid, m.ArtifactType, artifactType)
	}
	if m.Subject == nil {
		return nil, block.Digest{}, fmt.Errorf("%w: artifact manifest: no subject", ErrInvalid)
	}
	subject, err := block.ParseDigest(m.Subject.Digest.String())
	if err != nil {
		return nil, block.Digest{}, fmt.Errorf("%w: artifact manifest: subject: %w", ErrInvalid, err)
	}
	if len(m.Layers) > maxBlobs {
		return nil, block.Digest{}, fmt.Errorf("%w: artifact manifest: %d blobs, the limit is %d", ErrInvalid, len(m.Layers), maxBlobs)
	}
	return &m, subject, nil
}
