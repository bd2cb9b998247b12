package containerdconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

const (
	fileMode = 0o644
	dirMode  = 0o755
)

// Apply makes changes in their order, each at once or not at all. After an error those
// made before are undone.
func Apply(changes []Change) error {
	for i, c := range changes {
		if err := c.apply(); err != nil {
			return errors.Join(err, Undo(changes[:i]))
		}
	}
	return nil
}

// Undo makes changes undone, the last one first.
func Undo(changes []Change) error {
	var errs []error
	for _, c := range slices.Backward(changes) {
		errs = append(errs, Change{Path: c.Path, Old: c.New, New: c.Old}.apply())
	}
	return errors.Join(errs...)
}

func (c Change) apply() error {
	if c.New == nil {
		if err := os.Remove(c.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing a file: %w", err)
		}
		return nil
	}
	if err := c.write(); err != nil {
		return fmt.Errorf("writing %s: %w", c.Path, err)
	}
	return nil
}

func (c Change) write() (err error) {
	path := c.Path
	// What a link leads to is changed, not the link.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	mode := fs.FileMode(fileMode)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".brisk-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	_, err = file.Write(c.New)
	err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
