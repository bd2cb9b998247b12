package snapshotter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// boundPath returns where the directory of an adopted snapshot is mounted for containers in
// user namespaces.
func boundPath(root, id string) string { return filepath.Join(root, "snapshots", id, "bound") }

// lowerDirs returns the lower directories of an overlay, the nearest first.
//
// containerd maps the owners of files, for a container in a user namespace, by a mapped copy of all
// mounts below the directory that the lower ones have in common. A link out of that
// leads to files without a mapping. So links are resolved, or, if there are directories
// of ours too, mounts take their place. Otherwise links are better: the longer what the
// paths have in common, the more of them fit into the options of a mount.
func (s *Snapshotter) lowerDirs(labels map[string]string, lowers below) []string {
	mapped, all := isMapped(labels), len(lowers.adopted) == len(lowers.ids)
	dirs := make([]string, len(lowers.ids))
	for i, id := range lowers.ids {
		dir, adopted := lowers.adopted[id]
		switch {
		case mapped && adopted && all:
			dirs[i] = dir
		case mapped && adopted:
			dirs[i] = boundPath(s.cfg.Root, id)
		default:
			dirs[i] = fsPath(s.cfg.Root, id)
		}
	}
	return dirs
}

// isMapped reports whether a snapshot is for a container in a user namespace.
func isMapped(labels map[string]string) bool {
	return labels[snapshots.LabelSnapshotUIDMapping] != "" || labels[snapshots.LabelSnapshotGIDMapping] != ""
}

// bind makes the mounts that lowerDirs counts on. They stay until their snapshots are removed.
func (s *Snapshotter) bind(labels map[string]string, lowers below) error {
	if !isMapped(labels) || len(lowers.adopted) == len(lowers.ids) {
		return nil
	}
	s.binding.Lock()
	defer s.binding.Unlock()
	for id, dir := range lowers.adopted {
		if err := bindReadOnly(dir, boundPath(s.cfg.Root, id)); err != nil {
			return fmt.Errorf("mounting adopted directory %s: %w", dir, err)
		}
	}
	return nil
}

// bindReadOnly mounts a directory on another one. Whoever removes what is there by mistake
// finds it read-only.
func bindReadOnly(dir, point string) error {
	if err := os.Mkdir(point, rootMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, err := isMountPoint(point)
	if err != nil {
		return err
	}
	if !there {
		if err := unix.Mount(dir, point, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	// Also if a process that died got no further than that.
	return unix.Mount("", point, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// unbind undoes bind for what is in the directory of a snapshot, which may be removed then.
func (s *Snapshotter) unbind(name string) error {
	s.binding.Lock()
	defer s.binding.Unlock()
	point := boundPath(s.cfg.Root, name)
	for {
		there, err := isMountPoint(point)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !there {
			return nil
		}
		if err == nil {
			err = unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
}

func isMountPoint(path string) (bool, error) {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &stat); err != nil {
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}
