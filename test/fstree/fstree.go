package fstree

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is one name of a tree.
type Entry struct {
	// Path is relative to the root, which is ".".
	Path string
	// Mode is st_mode: type, set-id, sticky and permission bits.
	Mode uint32
	UID  uint32
	GID  uint32
	// Size is st_size in bytes, 0 for directories.
	Size int64
	// SHA256 is the digest of a regular file's content in hexadecimal digits.
	SHA256 string
	// Target is the target of a symbolic link.
	Target string
	// Links is st_nlink, 0 for directories.
	Links uint64
	// Group is the first path, in the order of Tree.Entries, of the names that
	// share the inode. It is empty for directories and for inodes with one name.
	Group string
	// Major and Minor are the numbers of a device node.
	Major uint32
	Minor uint32
	// Xattrs maps the full names of extended attributes to their values.
	Xattrs map[string]string
	// ModTime is st_mtim.
	ModTime time.Time
}

// IsDir reports whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// Tree is a snapshot.
type Tree struct {
	// Entries holds the root and everything below it, sorted by path.
	Entries []Entry
	// Since is the time from which on the modification times of directories are
	// the doing of whatever made the tree and not content: [Diff] leaves them out.
	// The zero value means that all of them count.
	Since time.Time
}

// inode identifies a file within one snapshot.
type inode struct{ dev, ino uint64 }

// Take reads the tree below root. It opens every regular file, so its cost is
// that of reading everything. It crosses mount points.
func Take(root string) (*Tree, error) { return take(root, false) }

// take reads a tree, with or without the names that an overlay lists and does not have:
// whiteouts in directories that exist in one layer only.
func take(root string, overlaid bool) (*Tree, error) {
	tree := &Tree{}
	ids := make([]inode, 0)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return fmt.Errorf("naming %s: %w", path, err)
		}
		entry, id, err := read(path)
		if overlaid && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		entry.Path = rel
		tree.Entries = append(tree.Entries, entry)
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walking %s: %w", root, err)
	}
	tree.group(ids)
	return tree, nil
}

// group fills in Group once every name of every inode is known. WalkDir visits
// paths in an order of its own, so the entries are put in order first.
func (t *Tree) group(ids []inode) {
	order := make([]int, len(t.Entries))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(t.Entries[a].Path, t.Entries[b].Path) })
	sorted := make([]Entry, 0, len(order))
	names := make(map[inode][]int)
	for _, from := range order {
		if e := &t.Entries[from]; !e.IsDir() {
			names[ids[from]] = append(names[ids[from]], len(sorted))
		}
		sorted = append(sorted, t.Entries[from])
	}
	for _, group := range names {
		for _, i := range group {
			if len(group) > 1 {
				sorted[i].Group = sorted[group[0]].Path
			}
		}
	}
	t.Entries = sorted
}

// read takes the snapshot of one name.
func read(path string) (Entry, inode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return Entry{}, inode{}, fmt.Errorf("reading the status of %s: %w", path, err)
	}
	e := Entry{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size,
		Links:   uint64(st.Nlink), //nolint:unconvert // 32 bits on some machines
		ModTime: time.Unix(st.Mtim.Unix()).UTC(),
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Size, e.Links = 0, 0
	case unix.S_IFREG:
		e.SHA256, err = hash(path)
	case unix.S_IFLNK:
		e.Target, err = os.Readlink(path)
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
	if err != nil {
		return Entry{}, inode{}, fmt.Errorf("reading %s: %w", path, err)
	}
	if e.Xattrs, err = xattrs(path); err != nil {
		return Entry{}, inode{}, err
	}
	return e, inode{st.Dev, st.Ino}, nil
}

func hash(path string) (digest string, err error) {
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		return "", err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func xattrs(path string) (map[string]string, error) {
	list, err := grow(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if err != nil {
		return nil, fmt.Errorf("listing the extended attributes of %s: %w", path, err)
	}
	var values map[string]string
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name == "" {
			continue
		}
		value, err := grow(func(buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) })
		if err != nil {
			return nil, fmt.Errorf("reading the extended attribute %s of %s: %w", name, path, err)
		}
		if values == nil {
			values = make(map[string]string)
		}
		values[name] = string(value)
	}
	return values, nil
}

// grow calls get with buffers of growing size until the answer fits. The largest
// list or value that Linux can return has 64 KiB.
func grow(get func(buf []byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size *= 8 {
		buf := make([]byte, size)
		n, err := get(buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case errors.Is(err, unix.ENOTSUP):
			return nil, nil
		case !errors.Is(err, unix.ERANGE) || size > 64<<10:
			return nil, err
		}
	}
}

// Diff returns one line for each difference, in the order of the paths; none
// means that the trees are equal. Of the two, want is the one whose Since counts.
func Diff(want, got *Tree) []string {
	var lines []string
	i, j := 0, 0
	for i < len(want.Entries) || j < len(got.Entries) {
		switch {
		case j == len(got.Entries) || i < len(want.Entries) && want.Entries[i].Path < got.Entries[j].Path:
			lines = append(lines, fmt.Sprintf("%q: missing", want.Entries[i].Path))
			i++
		case i == len(want.Entries) || got.Entries[j].Path < want.Entries[i].Path:
			lines = append(lines, fmt.Sprintf("%q: should not exist", got.Entries[j].Path))
			j++
		default:
			lines = append(lines, compare(&want.Entries[i], &got.Entries[j], want.Since)...)
			i++
			j++
		}
	}
	return lines
}

func compare(want, got *Entry, since time.Time) []string {
	var lines []string
	differ := func(what, format string, w, g any) {
		lines = append(lines, fmt.Sprintf("%q: %s is "+format+", want "+format, want.Path, what, g, w))
	}
	field := func(what, format string, w, g any) {
		if w != g {
			differ(what, format, w, g)
		}
	}
	field("mode", "%#o", want.Mode, got.Mode)
	field("owner", "%d", want.UID, got.UID)
	field("group", "%d", want.GID, got.GID)
	field("size", "%d", want.Size, got.Size)
	field("content digest", "%s", want.SHA256, got.SHA256)
	field("link target", "%q", want.Target, got.Target)
	field("link count", "%d", want.Links, got.Links)
	field("first name of the inode", "%q", want.Group, got.Group)
	field("major device number", "%d", want.Major, got.Major)
	field("minor device number", "%d", want.Minor, got.Minor)
	if !maps.Equal(want.Xattrs, got.Xattrs) {
		differ("set of extended attributes", "%q", want.Xattrs, got.Xattrs)
	}
	unpacking := want.IsDir() && !since.IsZero() && !want.ModTime.Before(since)
	if !unpacking && !want.ModTime.Equal(got.ModTime) {
		differ("modification time", "%s", want.ModTime.Format(time.RFC3339Nano), got.ModTime.Format(time.RFC3339Nano))
	}
	return lines
}
