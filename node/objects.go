package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/p2p"
)

// sharedObjects lets peers read the object store. Each object is hashed in this process before it is
// sent for the first time: the disk may have changed it while no process was watching.
type sharedObjects struct {
	store *cache.Objects
	log   *slog.Logger

	mu    sync.Mutex
	sound map[block.Digest]struct{} // hashed before, and not removed since as far as is known
}

func newSharedObjects(store *cache.Objects, log *slog.Logger) *sharedObjects {
	return &sharedObjects{store: store, log: log, sound: make(map[block.Digest]struct{})}
}

// Open implements [p2p.Objects]. A damaged object is removed, and counts as not there.
func (o *sharedObjects) Open(ctx context.Context, digest block.Digest) (p2p.ObjectReader, int64, error) {
	file, err := os.Open(o.store.Path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		o.note(digest, false)
		return nil, 0, fmt.Errorf("opening object %s: %w", digest, block.ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("opening object %s: %w", digest, err)
	}
	info, err := file.Stat()
	if err == nil {
		err = o.check(ctx, digest, file, info.Size())
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("opening object %s: %w", digest, err), file.Close())
	}
	return file, info.Size(), nil
}

// check hashes an object that was not hashed before.
func (o *sharedObjects) check(ctx context.Context, digest block.Digest, file io.ReaderAt, size int64) error {
	if o.isSound(digest) {
		return nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, io.NewSectionReader(file, 0, size)); err != nil {
		return err
	}
	if block.Digest(hash.Sum(nil)) != digest {
		o.log.WarnContext(ctx, "an object was damaged on the disk; it is removed", "digest", digest.String())
		return errors.Join(block.ErrNotFound, o.store.Remove(digest))
	}
	o.note(digest, true)
	return nil
}

func (o *sharedObjects) isSound(digest block.Digest) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, sound := o.sound[digest]
	return sound
}

func (o *sharedObjects) note(digest block.Digest, sound bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if sound {
		o.sound[digest] = struct{}{}
	} else {
		delete(o.sound, digest)
	}
}

// StreamFile returns the path of the file with the blocks of a layer stream that the node in a
// directory has, which may be none or not all. They are not verified.
func StreamFile(dir string, stream block.Digest) string {
	return cache.LayerFile(cacheDir(dir), stream)
}

// cacheDir is where a node keeps blocks.
func cacheDir(dir string) string { return filepath.Join(dir, "cache") }
