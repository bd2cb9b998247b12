package erofs_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/test/fstree"
)

// snapshotOfTree reads a tree as a filesystem that serves it would.
func snapshotOfTree(t *erofs.Tree, layers [][]byte) (*fstree.Tree, error) {
	s := snapshot{}
	var walk func(name string, n *erofs.Node) error
	walk = func(name string, n *erofs.Node) error {
		e := fstree.Entry{
			Path: name, Mode: n.Mode | typeOf(n.Type), UID: n.UID, GID: n.GID, Size: n.Size, Target: n.Target,
			Links: uint64(n.Nlink), Major: n.Major, Minor: n.Minor, ModTime: n.ModTime,
		}
		for _, x := range n.Xattrs {
			if e.Xattrs == nil {
				e.Xattrs = make(map[string]string)
			}
			e.Xattrs[x.Name] = x.Value
		}
		if n.Type == index.TypeReg {
			data, err := contentOf(n, layers)
			if err != nil {
				return fmt.Errorf("reading %q: %w", name, err)
			}
			e.SHA256 = digest(data)
		}
		if n.IsDir() {
			e.Links = 0
		}
		s.add(e, n.Ino)
		for _, c := range n.Children() {
			if found, ok := n.Lookup(c.Name); !ok || found != c.Node {
				return fmt.Errorf("lookup of %q in %q: %v, %v", c.Name, name, found, ok)
			}
			if err := walk(path.Join(name, c.Name), c.Node); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk(".", t.Root()); err != nil {
		return nil, err
	}
	return s.tree(), nil
}

// contentOf puts the content of a file together.
func contentOf(n *erofs.Node, layers [][]byte) ([]byte, error) {
	if n.Size > 64<<20 {
		return nil, errors.New("too large for a test")
	}
	data := make([]byte, n.Size)
	for _, s := range n.Segments {
		stream := layers[n.Layer]
		if s.StreamOffset+s.Length > int64(len(stream)) {
			return nil, errors.New("segment outside the stream")
		}
		copy(data[s.FileOffset:][:s.Length], stream[s.StreamOffset:])
	}
	for _, l := range n.Literals {
		copy(data[l.FileOffset:][:len(l.Data)], l.Data)
	}
	return data, nil
}

// snapshotByGoErofs reads an image with the go-erofs reader.
func snapshotByGoErofs(image []byte, layers [][]byte) (*fstree.Tree, error) {
	devices := make([]io.ReaderAt, len(layers))
	for i, layer := range layers {
		devices[i] = bytes.NewReader(append(slices.Clip(layer), make([]byte, -len(layer)&511)...))
	}
	fsys, err := goerofs.Open(bytes.NewReader(image), goerofs.WithExtraDevices(devices...))
	if err != nil {
		return nil, err
	}
	links, ok := fsys.(interface {
		Lstat(name string) (fs.FileInfo, error)
		ReadLink(name string) (string, error)
		ReadDir(name string) ([]fs.DirEntry, error)
	})
	if !ok {
		return nil, errors.New("the reader has no Lstat, ReadLink or ReadDir")
	}
	s := snapshot{}
	var walk func(name string) error
	walk = func(name string) error {
		info, err := links.Lstat(name)
		if err != nil {
			return err
		}
		e, ino, err := entryByGoErofs(name, info)
		if err != nil {
			return err
		}
		switch e.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			e.SHA256, err = digestOf(fsys, name)
		case unix.S_IFLNK:
			e.Target, err = links.ReadLink(name)
		}
		if err != nil {
			return err
		}
		s.add(e, ino)
		if !e.IsDir() {
			return nil
		}
		children, err := links.ReadDir(name)
		if err != nil {
			return err
		}
		for _, c := range children {
			if err := walk(path.Join(name, c.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	if err := walk("."); err != nil {
		return nil, err
	}
	return s.tree(), nil
}

func entryByGoErofs(name string, info fs.FileInfo) (fstree.Entry, uint64, error) {
	st, ok := info.Sys().(*goerofs.Stat)
	if !ok {
		return fstree.Entry{}, 0, fmt.Errorf("%q has a status of type %T", name, info.Sys())
	}
	e := fstree.Entry{
		Path: name, Mode: unixMode(st.Mode), UID: st.UID, GID: st.GID, Size: st.Size, Links: uint64(st.Nlink),
		ModTime: time.Unix(int64(st.Mtime), int64(st.MtimeNs)).UTC(),
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Size, e.Links = 0, 0
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Major, e.Minor = st.Rdev>>8&0xfff, st.Rdev&0xff|st.Rdev>>12&0xfff00
	}
	for name, value := range st.Xattrs {
		if e.Xattrs == nil {
			e.Xattrs = make(map[string]string)
		}
		if strings.HasPrefix(name, "system.posix_acl_") {
			name = strings.TrimSuffix(name, ".") // the reader adds a dot
		}
		e.Xattrs[name] = value
	}
	return e, uint64(st.Ino), nil
}

func digestOf(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	// What hides behind the interface reads chunks from anywhere on a device.
	data, err := io.ReadAll(struct{ io.Reader }{f})
	if err != nil {
		return "", err
	}
	return digest(data), f.Close()
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func typeOf(t index.Type) uint32 {
	switch t {
	case index.TypeDir:
		return unix.S_IFDIR
	case index.TypeSymlink:
		return unix.S_IFLNK
	case index.TypeChar:
		return unix.S_IFCHR
	case index.TypeBlock:
		return unix.S_IFBLK
	case index.TypeFifo:
		return unix.S_IFIFO
	default:
		return unix.S_IFREG
	}
}

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, unixBit := range map[fs.FileMode]uint32{
		fs.ModeSetuid: unix.S_ISUID, fs.ModeSetgid: unix.S_ISGID, fs.ModeSticky: unix.S_ISVTX,
		fs.ModeDir: unix.S_IFDIR, fs.ModeSymlink: unix.S_IFLNK, fs.ModeNamedPipe: unix.S_IFIFO,
	} {
		if m&bit != 0 {
			mode |= unixBit
		}
	}
	switch {
	case m&fs.ModeCharDevice != 0:
		mode |= unix.S_IFCHR
	case m&fs.ModeDevice != 0:
		mode |= unix.S_IFBLK
	case m.IsRegular():
		mode |= unix.S_IFREG
	}
	return mode
}

// snapshot collects entries and which of them are the same inode.
type snapshot struct {
	entries []fstree.Entry
	inodes  []uint64
}

func (s *snapshot) add(e fstree.Entry, ino uint64) {
	s.entries = append(s.entries, e)
	s.inodes = append(s.inodes, ino)
}

func (s *snapshot) tree() *fstree.Tree {
	first, count := make(map[uint64]string), make(map[uint64]int)
	for i, e := range s.entries {
		ino := s.inodes[i]
		if count[ino]++; count[ino] == 1 || e.Path < first[ino] {
			first[ino] = e.Path
		}
	}
	for i := range s.entries {
		if ino := s.inodes[i]; !s.entries[i].IsDir() && count[ino] > 1 {
			s.entries[i].Group = first[ino]
		}
	}
	slices.SortFunc(s.entries, func(a, b fstree.Entry) int { return strings.Compare(a.Path, b.Path) })
	return &fstree.Tree{Entries: s.entries}
}
