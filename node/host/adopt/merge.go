package adopt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
	var err error
	switch {
	case source.Dev == dest.Dev:
		err = t.mergeDir(from, t.dir)
	case t.layered:
		err = copying.CopyDir(t.dir, from)
	default:
		err = fmt.Errorf("%s is on another disk", from)
	}
	if err != nil {
		return fmt.Errorf("taking over files: %w", err)
	}
	return nil
}

// mergeDir merges a directory into another one, which is there.
func (t target) mergeDir(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := t.mergeEntry(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return err
		}
	}
	return t.copyAttributes(from, to)
}

// mergeEntry merges anything. Nothing that is read here is followed if it is a link, and
// nobody else writes to the directory.
func (t target) mergeEntry(from, to string) error {
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
	case whiteout && !t.layered:
		return nil
	case !isDir:
		return os.Link(from, to)
	case !there:
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
	}
	return t.mergeDir(from, to)
}

// opaque reports whether a directory hides those below it.
func opaque(dir string) bool {
	return slices.ContainsFunc(overlayAttributes(), func(prefix string) bool {
		value, err := sysx.LGetxattr(dir, prefix+"opaque")
		return err == nil && string(value) == "y"
	})
}

// copyAttributes gives a directory the attributes of another one.
func (t target) copyAttributes(from, to string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(from, &stat); err != nil {
		return &fs.PathError{Op: "lstat", Path: from, Err: err}
	}
	if err := os.Lchown(to, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(to, stat.Mode&^unix.S_IFMT); err != nil {
		return &fs.PathError{Op: "chmod", Path: to, Err: err}
	}
	if err := t.replaceXattrs(from, to); err != nil {
		return err
	}
	return os.Chtimes(to, time.Unix(stat.Atim.Unix()), time.Unix(stat.Mtim.Unix()))
}

// replaceXattrs makes a directory have the extended attributes of another one, and no others.
func (t target) replaceXattrs(from, to string) error {
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
		if !t.layered && slices.ContainsFunc(overlayAttributes(), func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
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
