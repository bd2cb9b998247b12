package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// fsPath returns the directory of what a snapshot adds to its parent.
func fsPath(root, id string) string { return filepath.Join(root, "snapshots", id, "fs") }

// workPath returns the scratch space that overlayfs has for a snapshot.
func workPath(root, id string) string { return filepath.Join(root, "snapshots", id, "work") }

// dirPath returns the directory with everything of a snapshot.
func (s *Snapshotter) dirPath(id string) string { return filepath.Join(s.cfg.Root, "snapshots", id) }

// makeDir makes the directory of the snapshot with the given number and calls finish
// with the part that is seen in the snapshot. On an error nothing is left. It is
// called at the end of the transaction that adds the snapshot: what is there of
// the same name was left by one that failed.
func (s *Snapshotter) makeDir(id string, writable bool, finish func(dir string) error) error {
	dir := s.dirPath(id)
	err := os.RemoveAll(dir)
	if err == nil {
		err = os.Mkdir(dir, rootMode)
	}
	if err == nil {
		err = os.Mkdir(fsPath(s.cfg.Root, id), 0o755) //nolint:gosec // the root of the container, for all its users
	}
	if err == nil && writable {
		err = os.Mkdir(workPath(s.cfg.Root, id), 0o711) //nolint:gosec // what overlayfs wants
	}
	if err == nil {
		err = finish(fsPath(s.cfg.Root, id))
	}
	if err != nil {
		return fmt.Errorf("making the directory of a snapshot: %w", errors.Join(err, os.RemoveAll(dir)))
	}
	return nil
}
