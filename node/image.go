package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
)

// indexFetches is how many layer indexes of an image are fetched at a time.
const indexFetches = 8

// Image is an image and where its index is. Its JSON form, kept after [Node.Fetch], is
// all that is needed to mount the image without the network.
type Image struct {
	// Name is its reference.
	Name string `json:"name"`
	// Digest is that of the platform manifest.
	Digest block.Digest `json:"digest"`
	// Layers are all layers, the bottom one first.
	Layers []ImageLayer `json:"layers"`
	// Traces say what starts of the image read: what counts of that in the registry.
	Traces []ImageTrace `json:"traces,omitempty"`
	// Bundle has the bytes of a trace, nil if the registry has none.
	Bundle *ImageBundle `json:"bundle,omitempty"`
	// Artifact is the index artifact, and Startup the start-up artifact that traces and bundle are
	// from, nil if there is none. Local says that this node has written the indexes itself.
	Artifact *ImageArtifact `json:"artifact,omitempty"`
	Startup  *ImageArtifact `json:"startup,omitempty"`
	Local    bool           `json:"local,omitempty"`
}

// ImageArtifact is an artifact that was found for an [Image].
type ImageArtifact struct {
	Digest block.Digest `json:"digest"`
	// Signature is why it was trusted, nil if it needed none.
	Signature *signature.Signature `json:"signature,omitempty"`
}

// ImageLayer is a layer of an [Image].
type ImageLayer struct {
	Digest    block.Digest    `json:"digest"` // of the stored blob
	DiffID    block.Digest    `json:"diffID"`
	Size      int64           `json:"size"` // of the stored blob, in bytes
	MediaType types.MediaType `json:"mediaType"`
	Foreign   bool            `json:"foreign,omitempty"`
	// Index is the digest of the layer index, zero if there is none, and IndexSize its
	// length in bytes.
	Index     block.Digest `json:"index,omitzero"`
	IndexSize int64        `json:"indexSize,omitempty"`
	// Head is what a mount needs of the index, zero for all.
	Head index.Head `json:"head,omitzero"`
	// Stream is the stream ID, and StreamSize the length of the layer stream in bytes,
	// known once the index has been fetched.
	Stream     block.Digest `json:"stream,omitzero"`
	StreamSize int64        `json:"streamSize,omitempty"`
}

// Indexed returns how many layers, from the bottom one on, have an index.
func (i *Image) Indexed() int {
	for n, layer := range i.Layers {
		if layer.Index.IsZero() {
			return n
		}
	}
	return len(i.Layers)
}

// streamSizes returns the lengths in bytes of the layer streams that have an index, by stream ID.
func (i *Image) streamSizes() map[block.Digest]int64 {
	layers := i.Layers[:i.Indexed()]
	sizes := make(map[block.Digest]int64, len(layers))
	for _, layer := range layers {
		sizes[layer.Stream] = layer.StreamSize
	}
	return sizes
}

// id names the first layers as mounts do.
func (i *Image) id(layers int) block.Digest {
	var digests []block.Digest
	for _, layer := range i.Layers[:layers] {
		digests = append(digests, layer.Index)
	}
	return lazyfs.ImageID(digests)
}

// Find resolves a reference and finds the index of the image. If manifest is set, it is
// the image with that platform manifest, whatever the reference means by now.
//
// Errors are those of registry.Client.Resolve and FindArtifact.
func (n *Node) Find(ctx context.Context, reference string, manifest block.Digest, platform v1.Platform) (*Image, error) {
	ref, err := n.cfg.Registry.ParseReference(reference)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	wanted := ref
	if !manifest.IsZero() {
		wanted = ref.Context().Digest(manifest.String())
		n.askPeersForTrace(ctx, manifest)
	}
	began := time.Now()
	resolved, err := n.cfg.Registry.Resolve(ctx, wanted, platform)
	if err != nil {
		return nil, err
	}
	known := time.Now()
	n.askPeersForTrace(ctx, resolved.Digest)
	resolved.Name = ref // where the accelerated tag is looked for
	artifact, err := n.cfg.Registry.FindArtifact(ctx, resolved)
	if err != nil {
		return nil, err
	}
	found := &Image{
		Name: reference, Digest: resolved.Digest, Traces: imageTraces(artifact), Bundle: imageBundle(artifact),
		Artifact: &ImageArtifact{Digest: artifact.Digest, Signature: artifact.Signature},
	}
	if s := artifact.Startup; s != nil {
		found.Startup = &ImageArtifact{Digest: s.Digest, Signature: s.Signature}
	}
	n.noteFound(found, ref.Context(), began, known)
	for _, layer := range resolved.Layers {
		entry := ImageLayer{
			Digest: layer.Digest, DiffID: layer.DiffID, Size: layer.Size, MediaType: layer.MediaType, Foreign: layer.Foreign,
		}
		if indexed, ok := artifact.Index(layer.Digest); ok {
			entry.Index, entry.IndexSize, entry.Head = indexed.Digest, indexed.Size, indexed.Head
		}
		found.Layers = append(found.Layers, entry)
	}
	return found, nil
}

// Fetch makes the indexes of an image local, verifies them, and sets the stream IDs. If one
// is known to be false the error wraps [ErrFalseIndex]. If blocks are missing and the registry
// does not serve ranges it wraps [registry.ErrNoRanges]: who pulls such an image is better off with
// a plain pull.
//
// If prepare says so, it then begins to build the metadata of the image and to load its
// blocks: who pulls an image is about to start it. What its start reads, where that is known,
// is loaded whatever prepare says, unless it is nil. The mount that follows goes on with
// it. It ends when everything is there, or with [Node.Retain] when nobody keeps the
// image. Before Run is ready nothing is begun. That it fails does not matter to a mount.
func (n *Node) Fetch(ctx context.Context, image *Image, prepare func(*Image) bool) error {
	n.keeping.RLock()
	defer n.keeping.RUnlock()
	ref, err := n.cfg.Registry.ParseReference(image.Name)
	if err != nil {
		return err
	}
	if err := n.CheckIndex(image, image.Indexed()); err != nil {
		return err
	}
	began := time.Now()
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(indexFetches)
	opened := make([]*openLayer, image.Indexed())
	ranges := n.startRangeCheck(ctx, ref.Context(), image)
	traces := n.fetchTraces(ctx, ref.Context(), image)
	indexed := make(chan bool, 1)
	if prepare != nil {
		n.startBundle(ctx, ref.Context(), image, indexed)
	}
	for i := range opened {
		layer := &image.Layers[i]
		group.Go(func() error {
			open, err := n.openIndex(groupCtx, ref.Context(), *layer)
			if err != nil {
				return fmt.Errorf("fetching index of layer %s of %s: %w", layer.Digest.Short(), image.Name, err)
			}
			layer.Stream, layer.StreamSize = open.StreamID(), open.StreamSize()
			opened[i] = open
			n.judgeKnown(groupCtx, candidate{image, *layer}, open)
			return nil
		})
	}
	if err = group.Wait(); err != nil {
		traces.cancel()
	}
	fetched := time.Now()
	traces.wait()
	indexed <- err == nil
	if err == nil {
		n.expectTrace(image)
		n.cfg.StartRecorder.RecordPhase(startOf(image), "fetch layer indexes", began, fetched)
		n.cfg.StartRecorder.RecordPhase(startOf(image), "wait for the trace", fetched, time.Now())
		err = n.CheckIndex(image, image.Indexed()) // they may have been read only now
	}
	if err == nil && !n.local(image) {
		err = ranges.wait()
	} else {
		ranges.stop()
	}
	if err == nil {
		n.noteFetched(image)
	}
	if err == nil && prepare != nil {
		n.prepare(ctx, image, prepare(image)) // while the indexes are open
	}
	for _, open := range opened {
		if open != nil {
			err = errors.Join(err, n.layerIndexes.release(open))
		}
	}
	return err
}

// newlyFetched is how long after its indexes have been fetched an image is known, until it
// has been mounted or Config.Images has it.
const newlyFetched = time.Minute

// fetched is an image whose indexes were fetched.
type fetched struct {
	image *Image
	at    time.Time
}

func (n *Node) noteFetched(image *Image) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.newlyFetchedLocked()
	n.fetched = append(n.fetched, fetched{image, time.Now()})
}

// newlyFetchedLocked returns the images that were fetched lately, and forgets the others.
func (n *Node) newlyFetchedLocked() []*Image {
	n.fetched = slices.DeleteFunc(n.fetched, func(f fetched) bool { return time.Since(f.at) > newlyFetched })
	images := make([]*Image, len(n.fetched))
	for i, f := range n.fetched {
		images[i] = f.image
	}
	return images
}
