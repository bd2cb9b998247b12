package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// indexFile is a layer index, or the head of one, as a file of the object store. Its digest has
// been verified.
type indexFile struct {
	*os.File

	size int64
	head bool
}

// openIndex opens the index of a layer, fetching it if it is not local.
func (n *Node) openIndex(ctx context.Context, repo name.Repository, layer ImageLayer) (*openLayer, error) {
	if layer.Index.IsZero() {
		return nil, fmt.Errorf("%w for it", registry.ErrNoArtifact)
	}
	if open, ok := n.layerIndexes.join(layer); ok {
		return open, nil
	}
	file, err := n.storedIndex(layer)
	if errors.Is(err, block.ErrNotFound) {
		file, err = n.fetchIndex(ctx, repo, layer)
	}
	if err != nil {
		return nil, err
	}
	return n.shareIndex(layer, file)
}

// shareIndex makes an index that is in a file known to all who need it. It closes the file on an
// error.
func (n *Node) shareIndex(layer ImageLayer, file *indexFile) (*openLayer, error) {
	opened, err := file.open(layer)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	open, err := n.layerIndexes.acquire(layer.Index, opened, file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return open, nil
}

func (f *indexFile) open(layer ImageLayer) (*index.Layer, error) {
	described := registry.Layer{
		Digest: layer.Digest, DiffID: layer.DiffID, Size: layer.Size, MediaType: layer.MediaType, Foreign: layer.Foreign,
	}
	if f.head {
		return registry.OpenIndexHead(described, f, layer.Head, layer.Index, layer.IndexSize)
	}
	return registry.OpenIndex(described, f, f.size)
}

// storedIndex opens the index of a layer in the object store, or its head if that is all there is.
// The error wraps [block.ErrNotFound] if there is neither.
func (n *Node) storedIndex(layer ImageLayer) (*indexFile, error) {
	file, err := n.storedObject(layer.Index, registry.MaxIndexBlob)
	if err == nil || layer.Head.Size == 0 || !errors.Is(err, block.ErrNotFound) {
		return file, err
	}
	if file, err = n.storedObject(layer.Head.Digest, layer.Head.Size); err != nil {
		return nil, err
	}
	file.head = true
	return file, nil
}

// storedObject opens an object in place, whose digest it compares first.
func (n *Node) storedObject(digest block.Digest, limit int64) (*indexFile, error) {
	content, err := n.objects.Get(digest, limit)
	if err != nil {
		return nil, err
	}
	return n.openObject(digest, len(content))
}

// openObject opens an object of a length whose digest has been compared.
func (n *Node) openObject(digest block.Digest, size int) (*indexFile, error) {
	file, err := os.Open(n.objects.Path(digest))
	if err != nil {
		return nil, fmt.Errorf("opening layer index: %w", err)
	}
	return &indexFile{File: file, size: int64(size)}, nil
}

// fetchIndex puts what a mount needs of a layer index into the object store, and opens it.
func (n *Node) fetchIndex(ctx context.Context, repo name.Repository, layer ImageLayer) (*indexFile, error) {
	digest, size := layer.Index, layer.IndexSize
	if layer.Head.Size > 0 {
		digest, size = layer.Head.Digest, layer.Head.Size
	}
	content, err := n.fetchObject(ctx, repo, layer, digest, size)
	if err != nil {
		return nil, err
	}
	if err := n.objects.Put(digest, content); err != nil {
		return nil, err
	}
	file, err := n.openObject(digest, len(content))
	if err != nil {
		return nil, err
	}
	file.head = layer.Head.Size > 0
	return file, nil
}

// fetchObject fetches a layer index or its head from a peer, or else from the registry.
func (n *Node) fetchObject(ctx context.Context, repo name.Repository, layer ImageLayer, digest block.Digest, size int64) ([]byte, error) {
	if n.peers != nil {
		content, err := n.peers.Object(ctx, digest, size)
		if err == nil {
			return content, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		n.log.Debug("peers have no layer index", "digest", digest, "error", err)
	}
	if digest == layer.Index {
		return n.cfg.Registry.ReadBlob(ctx, repo, digest, size, registry.MaxIndexBlob)
	}
	return n.cfg.Registry.ReadIndexPart(ctx, repo, index.Part{
		Index: layer.Index, IndexSize: layer.IndexSize, Length: size, Digest: digest,
	})
}

// indexParts is the object store as the registry keeps parts of indexes in it.
type indexParts struct{ node *Node }

// Get implements [registry.Objects].
func (p indexParts) Get(digest block.Digest, limit int64) ([]byte, error) {
	return p.node.objects.Get(digest, limit)
}

// Put implements [registry.Objects]. While the store is swept nothing is kept: who fetches must not
// wait for it.
func (p indexParts) Put(digest block.Digest, data []byte) error {
	if !p.node.keeping.TryRLock() {
		return errors.New("the object store is being swept")
	}
	defer p.node.keeping.RUnlock()
	return p.node.objects.Put(digest, data)
}
