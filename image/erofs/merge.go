package erofs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/brisk-project/brisk/image/index"
)

// Limits of a tree. The first two are the kernel's, for a name and for a path with
// the NUL behind it; the third bounds the memory that a small but hostile index
// can take to about 2.5 GiB, at ten times the files of the largest images.
const (
	maxName  = 255
	maxPath  = 4095
	maxNodes = 8 << 20
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	defaultMode    = 0o755
	setGID         = 0o2000
	modeMask       = 0o7777
	symlinkMode    = 0o777
)

// ErrInvalid means that containerd would refuse to unpack the layers, or that they
// exceed a limit. The text of the error names layer, entry and reason.
var ErrInvalid = errors.New("layers do not make a root filesystem")

// MergeVersion changes whenever Merge makes another tree of some layers, or numbers its
// inodes otherwise: what was built by another version is not that of this one.
const MergeVersion = 2

// Merge unpacks layers, the bottom one first, each into a tree of its own, and returns
// what an overlay of these trees shows. That is what containerd's overlayfs snapshotter
// does; the package comment says where a merge accepts more. Directories that exist only
// because an entry lies in them are copies of the directory of that path in the uppermost
// layer below that has one. Where there is none they belong to root, with mode 0755 and
// the time 0. The root directory has the same attributes, because unpacking ignores its
// entry.
//
// Errors of a layer's entries are returned wrapped; others wrap [ErrInvalid].
// Memory is taken for what the layers hold, about 300 bytes for each file.
func Merge[L Layer](layers []L) (*Tree, error) {
	m := &merger{}
	tree := &Tree{streams: make([]Stream, len(layers))}
	for i, layer := range layers {
		tree.streams[i] = Stream{DiffID: layer.DiffID(), Size: layer.StreamSize()}
		m.begin(i)
		for e, err := range layer.Entries() {
			if err != nil {
				return nil, fmt.Errorf("reading the entries of layer %d: %w", i, err)
			}
			if err := m.apply(e); err != nil {
				return nil, fmt.Errorf("layer %d: entry %.300q: %w: %w", i, e.Path, ErrInvalid, err)
			}
		}
		if err := m.setTimes(); err != nil {
			return nil, fmt.Errorf("layer %d: %w: %w", i, ErrInvalid, err)
		}
		countNames(m.root)
	}
	if m.root == nil {
		m.begin(0)
	}
	tree.nodes = freeze(append(view{m.root}, m.below...))
	return tree, nil
}

// merger unpacks layers.
type merger struct {
	root  *Node   // of the layer being unpacked
	below []*Node // the roots of the layers below it, the uppermost first
	layer int     // the number of the layer being unpacked
	nodes int     // the number of nodes made so far
	// times are the directories that the layer describes. Unpacking sets their
	// times at its end, by name.
	times []dirTime
}

type dirTime struct {
	path string
	time time.Time
}

// begin begins a layer.
func (m *merger) begin(layer int) {
	if m.root != nil {
		m.below = slices.Insert(m.below, 0, m.root)
	}
	m.layer = layer
	m.root = &Node{Type: index.TypeDir, Mode: defaultMode, ModTime: time.Unix(0, 0).UTC(), dir: newDirectory(nil, "")}
	m.root.dir.parent = m.root
}

// apply applies one entry of the current layer.
func (m *merger) apply(e *index.Entry) error {
	if e.Path == "" {
		return nil
	}
	if err := checkPath(e.Path); err != nil {
		return err
	}
	parentPath, base := split(e.Path)
	base = strings.Clone(base) // what the tree keeps is not to hold the whole path in memory
	parent, err := m.makeParent(parentPath)
	if err != nil {
		return err
	}
	if base == opaqueMarker {
		m.makeOpaque(parent)
		return nil
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		if hidden == "" || hidden == "." || hidden == ".." {
			return errors.New("whiteout of no name")
		}
		return m.hide(parent, hidden)
	}
	return m.put(parent, base, e)
}

// checkPath checks what a correct index guarantees, so that nothing else has to
// care about "." and "..".
func checkPath(path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("path of %d bytes: %w", len(path), syscall.ENAMETOOLONG)
	}
	if strings.IndexByte(path, 0) >= 0 {
		return errors.New("NUL in the path")
	}
	for rest := path; ; {
		name, after, more := strings.Cut(rest, "/")
		if name == "" || name == "." || name == ".." {
			return errors.New("path is not clean")
		}
		if !more {
			return nil
		}
		rest = after
	}
}

// split cuts a path before its last name.
func split(path string) (parent, base string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// put gives parent the name that e describes. Whatever has the name is replaced,
// except that a directory on a directory only changes attributes.
func (m *merger) put(parent *Node, base string, e *index.Entry) error {
	if len(base) > maxName {
		return fmt.Errorf("name of %d bytes: %w", len(base), syscall.ENAMETOOLONG)
	}
	s, exists := parent.dir.entries[base]
	if exists && (e.Type != index.TypeDir || !s.node.IsDir()) {
		delete(parent.dir.entries, base)
		exists = false
	}
	node := s.node
	var err error
	switch {
	case exists:
	case e.Type == index.TypeLink:
		node, err = m.linked(e.Link)
	default:
		node, err = m.create(parent, base, e)
	}
	if err != nil {
		return err
	}
	if err := node.describe(e); err != nil {
		return err
	}
	if e.Type == index.TypeDir {
		m.times = append(m.times, dirTime{e.Path, e.ModTime})
	}
	parent.dir.entries[base] = slot{node, true}
	return nil
}

// linked finds the file that a hard link names. The last name of the path is not
// followed: a link to a symbolic link is a link to that. A file of a layer below, which
// has no name in the directory that containerd unpacks into, is found too: snapshotters
// that unpack into a copy of what is below accept it.
func (m *merger) linked(path string) (*Node, error) {
	node, err := find(m.root, path)
	for i := 0; errors.Is(err, syscall.ENOENT) && i < len(m.below); i++ {
		if node, err = find(m.below[i], path); err == nil && node.isWhiteout() {
			err = syscall.EEXIST
		}
		if err == nil && !node.shared {
			// Names in several layers are counted once it is known which are seen.
			node.shared, node.Nlink = true, 0
		}
	}
	if err != nil {
		return nil, fmt.Errorf("target of the hard link, %.300q: %w", path, err)
	}
	return node, nil
}

// create makes the node of an entry, without the attributes that a later entry for
// the same node may change.
func (m *merger) create(parent *Node, base string, e *index.Entry) (*Node, error) {
	n := &Node{Type: e.Type, Layer: m.layer}
	switch e.Type {
	case index.TypeReg:
		if e.Size < 0 {
			return nil, fmt.Errorf("size of %d bytes", e.Size)
		}
		n.Size, n.Segments, n.Literals = e.Size, e.Segments, e.Literals
	case index.TypeDir:
		if parent.dir.path+1+len(base) > maxPath {
			return nil, fmt.Errorf("path through symbolic links: %w", syscall.ENAMETOOLONG)
		}
		n.dir = newDirectory(parent, base)
	case index.TypeSymlink:
		if e.Link == "" || len(e.Link) > maxPath || strings.IndexByte(e.Link, 0) >= 0 {
			return nil, fmt.Errorf("target of the symbolic link has %d bytes or a NUL", len(e.Link))
		}
		n.Mode, n.Target, n.Size = symlinkMode, e.Link, int64(len(e.Link))
	case index.TypeChar, index.TypeBlock:
		// The kernel keeps as many bits of the two as mknod takes.
		n.Major, n.Minor = e.Major&0xfff, e.Minor&0xfffff
	case index.TypeFifo:
	default:
		return nil, fmt.Errorf("unknown entry type %d", e.Type)
	}
	return n, m.adopt(parent, n)
}

// adopt counts a new node and gives it what it inherits from its directory.
func (m *merger) adopt(parent, n *Node) error {
	if m.nodes++; m.nodes > maxNodes {
		return fmt.Errorf("more than %d files and directories", maxNodes)
	}
	if parent.Mode&setGID != 0 {
		n.GID = parent.GID
	}
	n.inheritACL(parent)
	return nil
}

// hide applies a whiteout. In the lowest layer it removes what the layer has made so
// far. Others are unpacked with the device node that an overlay takes for a whiteout. A
// later entry of the layer replaces that; if it is a directory it is merged with one
// below, as if there had been no whiteout. Where an earlier entry has the name containerd
// refuses the layer, but not with snapshotters that have no overlay.
func (m *merger) hide(parent *Node, name string) error {
	if m.layer == 0 {
		delete(parent.dir.entries, name)
		return nil
	}
	if len(name) > maxName {
		return fmt.Errorf("name of %d bytes: %w", len(name), syscall.ENAMETOOLONG)
	}
	n := &Node{Type: index.TypeChar, Layer: m.layer}
	parent.dir.entries[name] = slot{n, true}
	return m.adopt(parent, n)
}

// makeOpaque hides what the layers below have in a directory. In the lowest layer the
// marker removes everything but what an entry has described, and that wherever the
// marker stands in the layer. As containerd does, a second marker is passed over, and a
// directory that no entry describes is removed with all that is in it.
func (m *merger) makeOpaque(n *Node) {
	if n.dir.opaque {
		return
	}
	n.dir.opaque = true
	if m.layer > 0 {
		return
	}
	for pending := []*Node{n}; len(pending) > 0; {
		d := pending[len(pending)-1].dir
		pending = pending[:len(pending)-1]
		for name, s := range d.entries {
			switch {
			case !s.described:
				delete(d.entries, name)
			case s.node.IsDir():
				pending = append(pending, s.node)
			}
		}
	}
}

// setTimes ends a layer: it sets the times of the directories that the layer
// describes, wherever their paths lead by now.
func (m *merger) setTimes() error {
	for _, t := range m.times {
		n, missing, err := walk(m.root, t.path)
		if err == nil && missing != "" {
			err = syscall.ENOENT
		}
		if err != nil {
			return fmt.Errorf("directory %.300q, which the layer removes again: %w", t.path, err)
		}
		n.ModTime = t.time
	}
	m.times = m.times[:0]
	return nil
}
