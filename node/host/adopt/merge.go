package adopt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	copying "github.com/containerd/continuity/fs"
	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// overlayAttributes begin the names of extended attributes that only overlayfs looks at.
func overlayAttributes() []string { return []string{"trusted.overlay.", "user.overlay."} }

// merge adds to the directory what one of overlayfs changes. Files are links to those there,
// for committed snapshots never change; only if that is on another disk they are copied.
func (t target) merge(from string) error {
	var source, dest unix.Stat_t
	if err := errors.Join(unix.Lstat(from, &source), unix.Lstat(t.dir, &dest)); err != nil {
		return fmt.Errorf("looking at directories of snapshots: %w", err)
	}
	m := merger{target: t}
	if source.Dev != dest.Dev {
		m.copied = make(map[uint64]string)
	}
	if err := m.mergeDir(from, t.dir); err != nil {
		return fmt.Errorf("taking over files: %w", err)
	}
	return nil
}

// merger merges one directory into a target.
type merger struct {
	target

	copied map[uint64]string // copies by the inode of what they are of; nil to link
}

// mergeDir merges a directory into another one, which is there.
func (m *merger) mergeDir(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := m.mergeEntry(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return err
		}
	}
	return m.copyAttributes(from, to)
}

// mergeEntry merges anything. Nothing that is read here is followed if it is a link, and
// nobody else writes to the directory.
func (m *merger) mergeEntry(from, to string) error {
	var stat, old unix.Stat_t
	if err := unix.Lstat(from, &stat); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	isDir := stat.Mode&unix.S_IFMT == unix.S_IFDIR
	whiteout := stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == 0
	there := unix.Lstat(to, &old) == nil
	if there && (!isDir || old.Mode&unix.S_IFMT != unix.S_IFDIR || opaque(from)) {
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		there = false
	}
	switch {
	case whiteout && !m.layered:
		return nil
	case !isDir:
		return m.place(from, to, &stat)
	case !there:
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
	}
	return m.mergeDir(from, to)
}

// opaque reports whether a directory hides those below it.
func opaque(dir string) bool {
	return slices.ContainsFunc(overlayAttributes(), func(prefix string) bool {
		value, err := sysx.LGetxattr(dir, prefix+"opaque")
		return err == nil && string(value) == "y"
	})
}

// place puts a file where nothing is.
func (m *merger) place(from, to string, stat *unix.Stat_t) error {
	if m.copied == nil {
		return os.Link(from, to)
	}
	if copied, ok := m.copied[stat.Ino]; ok {
		return os.Link(copied, to)
	}
	if stat.Nlink > 1 {
		m.copied[stat.Ino] = to
	}
	var err error
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = copying.CopyFile(to, from)
	case unix.S_IFLNK:
		var link string
		if link, err = os.Readlink(from); err == nil {
			err = os.Symlink(link, to)
		}
	default:
		if err = unix.Mknod(to, stat.Mode, int(stat.Rdev)); err != nil {
			err = &fs.PathError{Op: "mknod", Path: to, Err: err}
		}
	}
	if err != nil {
		return err
	}
	return m.copyAttributes(from, to)
}

// copyAttributes gives a file or a directory the attributes of another one.
func (m *merger) copyAttributes(from, to string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(from, &stat); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	if err := os.Lchown(to, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, stat.Mode&^unix.S_IFMT); err != nil {
			return &fs.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	if err := m.replaceXattrs(from, to); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{stat.Atim, stat.Mtim}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: to, Err: err}
	}
	return nil
}

// replaceXattrs makes a file or a directory have the extended attributes of another one, and no others.
func (m *merger) replaceXattrs(from, to string) error {
	wanted, err := sysx.LListxattr(from)
	if err != nil {
		return &fs.PathError{Op: "listxattr", Path: from, Err: err}
	}
	now, err := sysx.LListxattr(to)
	if err != nil {
		return &fs.PathError{Op: "listxattr", Path: to, Err: err}
	}
	for _, name := range now {
		if !slices.Contains(wanted, name) {
			if err := sysx.LRemovexattr(to, name); err != nil {
				return &fs.PathError{Op: "removexattr", Path: to, Err: err}
			}
		}
	}
	for _, name := range wanted {
		if !m.layered && slices.ContainsFunc(overlayAttributes(), func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		value, err := sysx.LGetxattr(from, name)
		if err == nil {
			err = sysx.LSetxattr(to, name, value, 0)
		}
		if err != nil {
			return &fs.PathError{Op: "copying xattr " + name, Path: to, Err: err}
		}
	}
	return nil
}
