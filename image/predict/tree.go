package predict

import (
	"slices"
	"strings"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
)

// node is what a prediction needs of a file or directory: 32 bytes, where the tree of package erofs
// has 176 with all attributes.
type node struct {
	size   int64
	offset int64 // in the layer stream, of a file that has no pieces
	more   *more // nil for most files
	layer  int32
	mode   uint16
	kind   index.Type
}

// more is what few nodes have.
type more struct {
	target   string  // of a symbolic link
	children []child // of a directory, sorted by name
	segments []index.Segment
	literals []index.Literal
}

// child is a name in a directory.
type child struct {
	name string
	node *node
}

// newTree copies a tree and returns its root.
func newTree(from *erofs.Tree) *node {
	nodes := make([]node, from.Len())
	for f := range from.Nodes() {
		n := &nodes[f.Ino-1]
		n.size, n.layer, n.mode, n.kind = f.Size, int32(f.Layer), uint16(f.Mode), f.Type
		switch {
		case f.IsDir():
			n.more = &more{children: copyChildren(nodes, f.Children())}
		case f.Type == index.TypeSymlink:
			n.more = &more{target: f.Target}
		case len(f.Segments) == 1 && f.Segments[0].FileOffset == 0 && f.Segments[0].Length == f.Size && len(f.Literals) == 0:
			n.offset = f.Segments[0].StreamOffset
		case f.Size > 0:
			n.more = &more{segments: slices.Clone(f.Segments), literals: f.Literals}
		}
	}
	return &nodes[from.Root().Ino-1]
}

// copyChildren copies a directory. Its names share one string.
func copyChildren(nodes []node, from []erofs.Child) []child {
	length := 0
	for _, c := range from {
		length += len(c.Name)
	}
	var names strings.Builder
	names.Grow(length)
	for _, c := range from {
		names.WriteString(c.Name)
	}
	children, left := make([]child, len(from)), names.String()
	for i, c := range from {
		children[i] = child{left[:len(c.Name)], &nodes[c.Node.Ino-1]}
		left = left[len(c.Name):]
	}
	return children
}

// isDir reports whether the node is a directory.
func (n *node) isDir() bool { return n.kind == index.TypeDir }

// target returns the target of a symbolic link.
func (n *node) target() string { return n.more.target }

// children returns what a directory has, sorted by name; nil for everything else.
func (n *node) children() []child {
	if n.more == nil {
		return nil
	}
	return n.more.children
}

// lookup returns the node of a name in a directory, and whether there is one.
func (n *node) lookup(name string) (*node, bool) {
	children := n.children()
	i, found := slices.BinarySearchFunc(children, name, func(c child, name string) int { return strings.Compare(c.name, name) })
	if !found {
		return nil, false
	}
	return children[i].node, true
}

// segments returns where the content of a file is in the layer stream.
func (n *node) segments() []index.Segment {
	switch {
	case n.more != nil:
		return n.more.segments
	case n.size == 0:
		return nil
	default:
		return []index.Segment{{StreamOffset: n.offset, Length: n.size}}
	}
}

// literals returns the content of a file that is in the index.
func (n *node) literals() []index.Literal {
	if n.more == nil {
		return nil
	}
	return n.more.literals
}
