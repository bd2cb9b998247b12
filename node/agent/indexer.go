package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/time/rate"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
	containerdapi "github.com/brisk-project/brisk/node/containerd"
)

const (
	// indexQueue is how many layers may wait to be looked at.
	indexQueue = 256
	// indexRate is how fast stored layers are read to index them, in bytes a second: with
	// about half a core, next to the container that has just been started.
	indexRate = 25 << 20
	// indexBurst is the most that is read at a time.
	indexBurst = 1 << 20
	// maxManifest bounds a manifest or a configuration in bytes.
	maxManifest = 8 << 20
)

// unpacked is a layer that was pulled plainly.
type unpacked struct {
	snapshotter.Pull

	namespace string
}

// indexer writes the indexes of images that have none, once they have been pulled, from
// what containerd has downloaded.
type indexer struct {
	containerd   string // its socket
	node         *node.Node
	localIndexes *localIndexes
	wanted       func(snapshotter.Pull) bool // whether a pull was plain for want of an index
	done         func(manifest string)
	log          *slog.Logger
	queue        chan unpacked
	limit        *rate.Limiter
}

// unpacked is told of a layer.
func (i *indexer) unpacked(ctx context.Context, pull snapshotter.Pull) {
	namespace, ok := namespaces.Namespace(ctx)
	if !ok || !i.wanted(pull) {
		return
	}
	select {
	case i.queue <- unpacked{Pull: pull, namespace: namespace}:
	default:
		i.log.WarnContext(ctx, "no index is written: too many images are pulled at a time", "image", pull.Image)
	}
}

// run writes indexes until ctx ends, one after the other.
func (i *indexer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case layer := <-i.queue:
			if _, ok := i.localIndexes.image(layer.Manifest); ok {
				continue
			}
			err := containerdapi.WithContent(ctx, i.containerd, layer.namespace, func(ctx context.Context, store content.Provider) error {
				return i.image(ctx, store, layer)
			})
			if err != nil && ctx.Err() == nil {
				i.log.WarnContext(ctx, "no index is written", "image", layer.Image, "manifest", layer.Manifest, "error", err)
			}
		}
	}
}

// image writes the indexes of an image if the layer is its uppermost one, which is
// unpacked last.
func (i *indexer) image(ctx context.Context, store content.Provider, layer unpacked) error {
	found, top, err := readImage(ctx, store, layer.Pull)
	if err != nil || top != layer.ChainID {
		return err
	}
	i.log.InfoContext(ctx, "no index; writing one", "image", layer.Image, "manifest", layer.Manifest, "layers", len(found.Layers))
	for n := range found.Layers {
		if err := i.layer(ctx, store, &found.Layers[n]); err != nil {
			return fmt.Errorf("indexing layer %s: %w", found.Layers[n].Digest.Short(), err)
		}
	}
	if err := i.localIndexes.add(found); err != nil {
		return err
	}
	i.done(layer.Manifest)
	i.log.InfoContext(ctx, "index written", "image", layer.Image, "manifest", layer.Manifest)
	return nil
}

// layer writes the index of one layer, unless there is one.
func (i *indexer) layer(ctx context.Context, store content.Provider, layer *node.ImageLayer) error {
	if known, ok := i.localIndexes.layer(*layer); ok {
		layer.Index, layer.IndexSize = known.Index, known.IndexSize
		return nil
	}
	blob, err := store.ReaderAt(ctx, descriptor(*layer))
	if err != nil {
		return fmt.Errorf("reading what was downloaded: %w", err)
	}
	defer blob.Close() //nolint:errcheck // read only
	slow := &limited{ctx: ctx, r: io.NewSectionReader(blob, 0, blob.Size()), limit: i.limit}
	result, err := index.Build(ctx, slow, index.BuildConfig{})
	if err != nil {
		return err
	}
	if result.BlobDigest != layer.Digest || result.DiffID != layer.DiffID || result.BlobSize != layer.Size {
		return fmt.Errorf("%w: it is not what manifest and configuration say", block.ErrCorrupt)
	}
	layer.Index, layer.IndexSize = block.Sum(result.Encoded), int64(len(result.Encoded))
	return i.localIndexes.put(*layer, result.Encoded)
}

func descriptor(layer node.ImageLayer) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.Digest(layer.Digest.String()), Size: layer.Size, MediaType: string(layer.MediaType)}
}

// readImage reads what an image consists of, and the chain ID of all of it.
func readImage(ctx context.Context, store content.Provider, pull snapshotter.Pull) (*node.Image, string, error) {
	var manifest ocispec.Manifest
	if err := readJSON(ctx, store, digest.Digest(pull.Manifest), &manifest); err != nil {
		return nil, "", fmt.Errorf("reading the manifest: %w", err)
	}
	var config ocispec.Image
	if err := readJSON(ctx, store, manifest.Config.Digest, &config); err != nil {
		return nil, "", fmt.Errorf("reading the configuration: %w", err)
	}
	diffs := config.RootFS.DiffIDs
	if len(diffs) != len(manifest.Layers) || len(diffs) == 0 {
		return nil, "", fmt.Errorf("%d layers and %d diffIDs: %w", len(manifest.Layers), len(diffs), block.ErrCorrupt)
	}
	found := &node.Image{Name: pull.Image}
	var errs []error
	parse := func(of digest.Digest) block.Digest {
		parsed, err := block.ParseDigest(of.String())
		errs = append(errs, err)
		return parsed
	}
	found.Digest = parse(digest.Digest(pull.Manifest))
	for n, layer := range manifest.Layers {
		if len(layer.URLs) > 0 {
			return nil, "", errors.New("it has layers that registries need not hold")
		}
		found.Layers = append(found.Layers, node.ImageLayer{
			Digest: parse(layer.Digest), DiffID: parse(diffs[n]), Size: layer.Size, MediaType: types.MediaType(layer.MediaType),
		})
	}
	return found, identity.ChainID(diffs).String(), errors.Join(errs...)
}

// readJSON decodes a document after comparing its digest.
func readJSON(ctx context.Context, store content.Provider, name digest.Digest, into any) error {
	if err := name.Validate(); err != nil {
		return err
	}
	blob, err := store.ReaderAt(ctx, ocispec.Descriptor{Digest: name})
	if err != nil {
		return err
	}
	defer blob.Close() //nolint:errcheck // read only
	if blob.Size() > maxManifest {
		return fmt.Errorf("%d bytes, the limit is %d", blob.Size(), maxManifest)
	}
	document, err := io.ReadAll(io.NewSectionReader(blob, 0, blob.Size()))
	if err != nil {
		return err
	}
	if name != name.Algorithm().FromBytes(document) {
		return fmt.Errorf("%s: %w", name, block.ErrCorrupt)
	}
	return json.Unmarshal(document, into)
}

// limited reads no faster than its limit.
type limited struct {
	ctx   context.Context //nolint:containedctx // of the one who reads
	r     io.Reader
	limit *rate.Limiter
}

// Read implements [io.Reader].
func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p[:min(len(p), indexBurst)])
	if waitErr := l.limit.WaitN(l.ctx, n); waitErr != nil {
		return n, waitErr
	}
	return n, err
}
