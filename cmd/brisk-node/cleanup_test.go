package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/brisk-project/brisk/test/containerdtest"
)

// requireEmpty waits until there is no mount, snapshot, block or index left.
func (s *site) requireEmpty() {
	s.t.Helper()
	var left []string
	defer func() {
		if s.t.Failed() {
			s.t.Logf("left: %q", left)
		}
	}()
	containerdtest.Await(s.t, "everything being cleaned up", 20*time.Second, func() bool {
		left = append(s.mounts(), s.residue()...)
		return len(left) == 0
	})
}

// residue returns the files that belong to images.
func (s *site) residue() []string {
	var left []string
	for _, dir := range []string{"cache/layers", "objects", "mounts/rootfs", "mounts/mnt", "snapshotter/snapshots"} {
		root := filepath.Join(s.dir, dir)
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				left = append(left, path) // it is being removed just now
				return nil
			}
			if err != nil {
				return err
			}
			if path != root && (dir != "objects" || !entry.IsDir()) && !strings.HasSuffix(path, "lock") {
				left = append(left, path)
			}
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return left
}
