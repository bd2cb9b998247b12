package layout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
)

const (
	layoutFile    = "oci-layout"
	indexFile     = "index.json"
	blobsDir      = "blobs/sha256"
	layoutContent = `{"imageLayoutVersion":"1.0.0"}`
	blobMode      = 0o644
	dirMode       = 0o755
)

// directory is a store of files in a directory.
type directory struct {
	path string
}

func openDirectory(path string, write bool) (*directory, error) {
	d := &directory{path: path}
	entries, err := os.ReadDir(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && write, err == nil && len(entries) == 0 && write:
		return d, d.initialize()
	case err != nil:
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(path, layoutFile)); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoLayout, err)
	}
	if write {
		return d, os.MkdirAll(filepath.Join(path, blobsDir), dirMode)
	}
	return d, nil
}

// initialize makes an empty layout.
func (d *directory) initialize() error {
	if err := os.MkdirAll(filepath.Join(d.path, blobsDir), dirMode); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.path, layoutFile), []byte(layoutContent), blobMode)
}

func (d *directory) index() ([]byte, error) {
	return statefile.Read(filepath.Join(d.path, indexFile), maxManifest)
}

func (d *directory) setIndex(content []byte) error {
	path := filepath.Join(d.path, indexFile)
	if err := statefile.WriteDurable(path, content); err != nil {
		return fmt.Errorf("writing index.json: %w", err)
	}
	return os.Chmod(path, blobMode)
}

func (d *directory) blobPath(digest block.Digest) string {
	return filepath.Join(d.path, blobsDir, digest.Hex())
}

func (d *directory) open(digest block.Digest) (blob, error) {
	f, err := os.Open(d.blobPath(digest)) //nolint:gosec // a digest has hexadecimal digits only
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", digest, block.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return fileBlob{f, info.Size()}, nil
}

func (d *directory) create() (*upload, error) { return newUpload(filepath.Join(d.path, blobsDir)) }

func (d *directory) commit(u *upload, digest block.Digest) error {
	return u.moveTo(d.blobPath(digest), digest)
}

func (d *directory) finish(context.Context) error { return nil }
func (d *directory) discard() error               { return nil }

// fileBlob is a blob that is a file.
type fileBlob struct {
	*os.File

	size int64
}

// Size returns the length of the blob in bytes.
func (b fileBlob) Size() int64 { return b.size }
