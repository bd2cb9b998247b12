package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// cleanStale unmounts what a process that used the state directory before has left:
// mounts on it and mounts of things in it, wherever they are. The caller holds the
// lock, so nothing of it is alive. Mounts made last go first; programs that still have
// files of them open keep what the kernel has cached.
func cleanStale(ctx context.Context, stateDir string) error {
	mounts, err := kernel.Mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if within(stateDir, m.Point) || uses(m, stateDir) {
			errs = append(errs, kernel.Unmount(ctx, m.Point, true))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing the mounts of a process before: %w", err)
	}
	for _, pattern := range []string{"mnt/*", "rootfs/*.tmp"} {
		left, err := filepath.Glob(filepath.Join(stateDir, pattern))
		if err != nil {
			return fmt.Errorf("looking for the files of a process before: %w", err)
		}
		for _, path := range left {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("removing the files of a process before: %w", err)
			}
		}
	}
	return nil
}

// uses reports whether something below dir is mounted.
func uses(m kernel.MountInfo, dir string) bool {
	switch {
	case m.Type == "erofs" && strings.HasPrefix(m.Source, "/dev/loop"):
		file, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(m.Source), "loop/backing_file"))
		return err == nil && within(dir, strings.TrimSpace(string(file)))
	case m.Type == "erofs", m.Type == fuseType:
		return within(dir, m.Source)
	case m.Type == "overlay":
		// Not split at commas, which paths may have too.
		return strings.Contains(","+m.Options, ",lowerdir="+dir+"/")
	}
	return false
}

func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}
