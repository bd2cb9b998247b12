package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// ErrNotMounted means that no image is mounted on a directory.
var ErrNotMounted = errors.New("not a Brisk mount")

// FindState returns the state directory of the FS that has mounted an image on target, an
// absolute path, by the list of mounts: that FS need not be alive. The error wraps
// [ErrNotMounted] if there is no such mount.
func FindState(target string) (dir string, err error) {
	mounts, err := kernel.Mounts()
	if err != nil {
		return "", err
	}
	top, ok := topmost(mounts, target)
	if !ok {
		return "", fmt.Errorf("%s is %w: nothing is mounted there", target, ErrNotMounted)
	}
	if _, dir, ok = rootOf(mounts, top); !ok {
		return "", fmt.Errorf("%s is %w: %s of %s is mounted there", target, ErrNotMounted, top.Type, top.Source)
	}
	return dir, nil
}

// UnmountStale unmounts what an FS that is not alive any more has left mounted on target,
// and what only that needed. It waits until nobody uses the mount, or ctx ends.
func UnmountStale(ctx context.Context, dir, target string) error {
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	mounts, err := kernel.Mounts()
	if err != nil {
		return err
	}
	top, _ := topmost(mounts, target)
	root, found, ok := rootOf(mounts, top)
	if !ok || found != dir {
		return fmt.Errorf("%s is %w of %s", target, ErrNotMounted, dir)
	}
	if err := kernel.Unmount(ctx, target, false); err != nil {
		return err
	}
	if root.Point != target {
		if err := kernel.Unmount(ctx, root.Point, true); err != nil {
			return err
		}
		if err := os.Remove(root.Point); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the mount point of %s: %w", target, err)
		}
	}
	return unmountFlat(ctx, dir)
}

// unmountFlat unmounts the layer files of a state directory unless a root needs them.
func unmountFlat(ctx context.Context, dir string) error {
	mounts, err := kernel.Mounts()
	if err != nil {
		return err
	}
	flat := filepath.Join(dir, "flat")
	for _, m := range mounts {
		if m.Type == "erofs" && uses(m, dir) {
			return nil
		}
	}
	return kernel.Unmount(ctx, flat, true)
}

// topmost returns what is seen on a mount point: the mount made last.
func topmost(mounts []kernel.MountInfo, point string) (kernel.MountInfo, bool) {
	for _, m := range slices.Backward(mounts) {
		if m.Point == point {
			return m, true
		}
	}
	return kernel.MountInfo{}, false
}

// rootOf returns the root that an FS has mounted, which is m itself or below the overlay
// m, and the state directory of that FS.
func rootOf(mounts []kernel.MountInfo, m kernel.MountInfo) (root kernel.MountInfo, dir string, ok bool) {
	switch m.Type {
	case "erofs":
		rootfs := filepath.Dir(backing(m))
		return m, filepath.Dir(rootfs), filepath.Base(rootfs) == "rootfs" && filepath.Ext(backing(m)) == metadataSuffix
	case fuseType:
		// The name of what is mounted is a path for trees only, not for layer files.
		return m, m.Source, filepath.IsAbs(m.Source)
	case "overlay":
		for _, lower := range mounts {
			if lower.Type == "overlay" || !overlays(m, lower.Point) {
				continue
			}
			root, dir, ok := rootOf(mounts, lower)
			if ok && filepath.Dir(lower.Point) == filepath.Join(dir, "mnt") {
				return root, dir, true
			}
		}
	}
	return kernel.MountInfo{}, "", false
}

// ResolveTarget returns the path by which the list of mounts knows a directory. What is
// mounted on it may be dead and need not answer.
func ResolveTarget(target string) (string, error) {
	target, err := filepath.Abs(target)
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", target, err)
	}
	resolved, err := filepath.EvalSymlinks(target)
	if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.EIO) {
		var parent string
		parent, err = filepath.EvalSymlinks(filepath.Dir(target))
		resolved = filepath.Join(parent, filepath.Base(target))
	}
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", target, err)
	}
	return resolved, nil
}
