package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/brisk-project/brisk/internal/block"
)

// Objects keeps small blobs, such as layer indexes and manifests, in files named by
// their digest. What it returns has been verified. It is safe for concurrent use,
// also by several processes on the same directory.
type Objects struct {
	dir string
}

// OpenObjects opens the store in a directory, which is made if it does not exist.
func OpenObjects(dir string) (*Objects, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("opening object store: %w", err)
	}
	return &Objects{dir: dir}, nil
}

// Path returns the path of the file that holds the object if the store has it. The
// content of the file is not verified.
func (o *Objects) Path(d block.Digest) string { return filepath.Join(o.dir, d.Hex()) }

// Has reports whether there is such an object.
func (o *Objects) Has(d block.Digest) bool {
	_, err := os.Stat(o.Path(d))
	return err == nil
}

// Put stores an object. Data that does not have the digest is an error wrapping
// [block.ErrCorrupt].
func (o *Objects) Put(d block.Digest, data []byte) error {
	if got := block.Sum(data); got != d {
		return fmt.Errorf("storing object %s: digest is %s: %w", d, got.Short(), block.ErrCorrupt)
	}
	if o.Has(d) {
		return nil
	}
	if err := o.write(d, data); err != nil {
		return fmt.Errorf("storing object %s: %w", d, err)
	}
	return nil
}

func (o *Objects) write(d block.Digest, data []byte) error {
	f, err := os.CreateTemp(o.dir, d.Hex()+".*"+tmpSuffix)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, removeFile(f.Name()))
	}
	if err := os.Rename(f.Name(), o.Path(d)); err != nil {
		return errors.Join(err, removeFile(f.Name()))
	}
	return syncDir(o.dir)
}

// Get returns an object of at most limit bytes. An object that the store does not
// have is an error wrapping [block.ErrNotFound]; so is one whose file is damaged,
// which is then removed.
func (o *Objects) Get(d block.Digest, limit int64) ([]byte, error) {
	data, err := o.read(d, limit)
	if err != nil {
		return nil, fmt.Errorf("reading object %s: %w", d, err)
	}
	if block.Sum(data) != d {
		return nil, fmt.Errorf("reading object %s: %w", d,
			errors.Join(block.ErrNotFound, errors.New("its file was damaged"), removeFile(o.Path(d))))
	}
	return data, nil
}

func (o *Objects) read(d block.Digest, limit int64) ([]byte, error) {
	f, err := os.Open(o.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, block.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > limit {
		err = fmt.Errorf("it has %d bytes, more than %d", info.Size(), limit)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	data := make([]byte, info.Size())
	_, err = io.ReadFull(f, data)
	return data, errors.Join(err, f.Close())
}

// Remove removes an object if there is one.
func (o *Objects) Remove(d block.Digest) error {
	if err := removeFile(o.Path(d)); err != nil {
		return fmt.Errorf("removing object %s: %w", d, err)
	}
	return nil
}

// Sweep removes the objects that keep does not want, and files of writers that
// died. No Put may be running. It returns the bytes of what is left.
func (o *Objects) Sweep(keep func(d block.Digest) bool) (int64, error) {
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return 0, fmt.Errorf("sweeping object store: %w", err)
	}
	var left int64
	for _, e := range entries {
		d, err := block.ParseDigest("sha256:" + e.Name())
		if err != nil && !strings.HasSuffix(e.Name(), tmpSuffix) {
			continue // not ours
		}
		if err == nil && keep(d) {
			if info, err := e.Info(); err == nil {
				left += info.Size()
			}
			continue
		}
		if err := removeFile(filepath.Join(o.dir, e.Name())); err != nil {
			return left, fmt.Errorf("sweeping object store: %w", err)
		}
	}
	return left, nil
}
