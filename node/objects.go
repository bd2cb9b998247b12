package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/p2p"
)

// sharedObjects lets peers read the object store. What is sent is not hashed here:
// the reader has to do that in any case.
type sharedObjects struct{ store *cache.Objects }

// Open implements [p2p.Objects].
func (o sharedObjects) Open(_ context.Context, digest block.Digest) (p2p.ObjectReader, int64, error) {
	file, err := os.Open(o.store.Path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("opening object %s: %w", digest, block.ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("opening object %s: %w", digest, err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("opening object %s: %w", digest, err), file.Close())
	}
	return file, info.Size(), nil
}

// StreamFile returns the path of the file with the blocks of a layer stream that the node in a
// directory has, which may be none or not all. They are not verified.
func StreamFile(dir string, stream block.Digest) string {
	return cache.LayerFile(cacheDir(dir), stream)
}

// cacheDir is where a node keeps blocks.
func cacheDir(dir string) string { return filepath.Join(dir, "cache") }
