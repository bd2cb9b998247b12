package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
)

const (
	dirMode  = 0o700
	fileMode = 0o600
	// tmpSuffix marks files that are not complete. They are removed at the next start.
	tmpSuffix = statefile.TmpSuffix
)

// removeFile removes the file at path if there is one.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// withFD calls fn with the descriptor of f, which stays open meanwhile.
func withFD(f *os.File, fn func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = fn(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// flush makes the data of f durable, and what is needed to find it.
func flush(f *os.File) error {
	return withFD(f, func(fd int) error {
		for {
			if err := unix.Fdatasync(fd); !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
}

// punch gives the bytes [off, off+n) of f back to the filesystem.
func punch(f *os.File, off, n int64) error {
	return withFD(f, func(fd int) error {
		for {
			err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
			if !errors.Is(err, unix.EINTR) {
				return err
			}
		}
	})
}

// lockDir takes the lock of a cache directory. Closing the file gives it back.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	err = withFD(f, func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("another process is using %s: stop it or choose another directory: %w", dir, err)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// LayerFile returns the path of the file with the blocks of a layer that the cache in a
// directory has, which may be none or not all.
func LayerFile(dir string, id block.Digest) string { return filepath.Join(layerDir(dir, id), "data") }

func layerDir(dir string, id block.Digest) string { return filepath.Join(dir, "layers", id.Hex()) }
