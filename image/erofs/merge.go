package erofs

import (
	"errors"
	"fmt"
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

// ErrInvalid says that containerd would refuse to unpack the layers, or that they
// exceed a limit. The text of the error names layer, entry and reason.
var ErrInvalid = errors.New("layers do not make a root filesystem")

// Merge applies layers, the bottom one first, and returns the tree that unpacking
// them with containerd makes. Directories that exist only because an entry lies in
// them belong to root, with mode 0755 and the time 0. The root directory has the
// same attributes, because unpacking ignores its entry.
//
// Errors of a layer's entries are returned wrapped; others wrap [ErrInvalid].
// Memory is taken for what the tree holds, about 300 bytes for each file.
func Merge[L Layer](layers []L) (*Tree, error) {
	m := newMerger()
	tree := &Tree{streams: make([]Stream, len(layers))}
	for i, layer := range layers {
		tree.streams[i] = Stream{DiffID: layer.DiffID(), Size: layer.StreamSize()}
		m.layer = i
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
	}
	tree.nodes = freeze(m.root)
	return tree, nil
}

// merger is a tree that layers are being applied to.
type merger struct {
	root  *Node
	layer int // the number of the layer being applied
	nodes int // the number of nodes made so far
	// times are the directories that the layer describes. Unpacking sets their
	// times at its end, by name.
	times []dirTime
}

type dirTime struct {
	path string
	time time.Time
}

func newMerger() *merger {
	root := &Node{Type: index.TypeDir, Mode: defaultMode, ModTime: time.Unix(0, 0).UTC(), dir: newDirectory(nil, "")}
	root.dir.parent = root
	return &merger{root: root}
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
		delete(parent.dir.entries, hidden)
		return nil
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
	parent.dir.entries[base] = slot{node, m.layer}
	return nil
}

// linked finds the file that a hard link names. The last name of the path is not
// followed: a link to a symbolic link is a link to that.
func (m *merger) linked(path string) (*Node, error) {
	parentPath, base := split(path)
	dir, missing, err := m.walk(parentPath)
	if err != nil {
		return nil, fmt.Errorf("target of the hard link, %.300q: %w", path, err)
	}
	s, found := slot{}, false
	if missing == "" && dir.IsDir() {
		s, found = dir.dir.entries[base]
	}
	switch {
	case !found:
		return nil, fmt.Errorf("target of the hard link, %.300q: %w", path, syscall.ENOENT)
	case s.node.IsDir():
		return nil, fmt.Errorf("target of the hard link, %.300q, is a directory", path)
	}
	return s.node, nil
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

// makeOpaque removes what lower layers have in a directory: everything but what an
// entry of the current layer has described, and that wherever the marker stands in
// the layer. As containerd does, a second marker is passed over, and a directory
// that no entry describes is removed with all that is in it.
func (m *merger) makeOpaque(n *Node) {
	if n.dir.opaque == m.layer {
		return
	}
	n.dir.opaque = m.layer
	for pending := []*Node{n}; len(pending) > 0; {
		d := pending[len(pending)-1].dir
		pending = pending[:len(pending)-1]
		for name, s := range d.entries {
			switch {
			case s.layer != m.layer:
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
		n, missing, err := m.walk(t.path)
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
