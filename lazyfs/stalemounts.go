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

// kept is what of the mounts of a process before this one is still in use by this one.
type kept struct {
	devices map[string]bool // numbers of filesystems
	points  map[string]bool // where roots are mounted
}

// has reports whether a mount is one of those, a copy of one elsewhere, or an overlay
// that somebody has put on one.
func (k kept) has(m kernel.MountInfo) bool {
	if k.devices[m.Device] {
		return true
	}
	for point := range k.points {
		if overlays(m, point) {
			return true
		}
	}
	return false
}

// cleanStale unmounts what a process that used the state directory before has left:
// mounts on it and mounts of things in it, wherever they are, but for those that are
// kept. The caller holds the lock, so nothing else of it is alive. Mounts made last go
// first; programs that still have files of them open keep what the kernel has cached.
func cleanStale(ctx context.Context, stateDir string, kept kept) error {
	mounts, err := kernel.Mounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if !kept.has(m) && (within(stateDir, m.Point) || uses(m, stateDir)) {
			errs = append(errs, kernel.Unmount(ctx, m.Point, true))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing the mounts of a process before: %w", err)
	}
	for _, pattern := range []string{"mnt/*", "rootfs/*.tmp", "records/*.tmp"} {
		left, err := filepath.Glob(filepath.Join(stateDir, pattern))
		if err != nil {
			return fmt.Errorf("looking for the files of a process before: %w", err)
		}
		for _, path := range left {
			if kept.points[path] {
				continue
			}
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("removing the files of a process before: %w", err)
			}
		}
	}
	return nil
}

// uses reports whether something below dir is mounted.
func uses(m kernel.MountInfo, dir string) bool {
	switch m.Type {
	case "erofs":
		return within(dir, backing(m))
	case fuseType:
		return within(dir, m.Source)
	default:
		return overlays(m, dir)
	}
}

// backing returns the file that an EROFS is mounted from, through a loop device or
// not, empty if that cannot be told.
func backing(m kernel.MountInfo) string {
	if !strings.HasPrefix(m.Source, "/dev/loop") {
		return m.Source
	}
	file, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(m.Source), "loop/backing_file"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(file))
}

// overlays reports whether an overlay has a lower directory that is path or below it.
// The options are not split at commas and colons, which paths may have too.
func overlays(m kernel.MountInfo, path string) bool {
	if m.Type != "overlay" {
		return false
	}
	options := "," + m.Options + ","
	for from := 0; ; {
		at := strings.Index(options[from:], path)
		if at < 0 {
			return false
		}
		before, after := options[:from+at], options[from+at+len(path):]
		begins := strings.HasSuffix(before, ",lowerdir=") || strings.HasSuffix(before, ",lowerdir+=") || strings.HasSuffix(before, ":")
		if begins && strings.ContainsAny(after[:1], "/,:") {
			return true
		}
		from += at + 1
	}
}

func within(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}
