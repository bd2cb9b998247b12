// Package statefile reads and replaces small files that keep state for the next process.
package statefile

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// TmpSuffix ends the names of files that are not complete. One that a crash has left
	// is replaced by the next write, or may be removed.
	TmpSuffix = ".tmp"
	mode      = 0o600
)

// Read returns the first limit bytes of a file, nil if there is none.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, limit))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return content, nil
}

// Write makes data the content of a file that only its owner reads. If the process is
// killed the file has the old content or the new; if the machine is, it may be damaged.
// Callers must not write the same file concurrently.
func Write(path string, data []byte) error { return replace(path, data, false) }

// WriteDurable is [Write], and the old or the new content is also there after the machine
// has lost its power. When it returns nil it is the new one. It waits for the disk.
func WriteDurable(path string, data []byte) error {
	if err := replace(path, data, true); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func replace(path string, data []byte, sync bool) error {
	tmp := path + TmpSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return nil
}
