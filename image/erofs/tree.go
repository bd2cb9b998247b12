package erofs

import (
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// Layer is what a merge needs of one layer index. [index.Layer] implements it.
type Layer interface {
	// DiffID names the layer stream.
	DiffID() block.Digest
	// StreamSize is the length of the layer stream in bytes.
	StreamSize() int64
	// Entries yields the members of the layer's tar in their order. The walk ends
	// after an error. The tree keeps strings and slices of the entries, which
	// therefore must not change.
	Entries() iter.Seq2[*index.Entry, error]
}

// Stream is the layer stream that a tree refers to by the number of its layer.
type Stream struct {
	DiffID block.Digest
	Size   int64 // in bytes
}

// Tree is the root filesystem that a chain of layers makes. It does not change
// once [Merge] has returned it, and may be read concurrently.
type Tree struct {
	nodes   []*Node // by inode number, from 1 on
	streams []Stream
}

// Root returns the root directory. Its inode number is 1.
func (t *Tree) Root() *Node { return t.nodes[0] }

// Len returns the number of inodes. Their numbers are 1 to Len.
func (t *Tree) Len() int { return len(t.nodes) }

// Node returns the inode of that number, and whether there is one.
func (t *Tree) Node(ino uint64) (*Node, bool) {
	if ino == 0 || ino > uint64(len(t.nodes)) {
		return nil, false
	}
	return t.nodes[ino-1], true
}

// Nodes walks every inode in the order of the inode numbers: the children of a
// directory that have not come before stand together, and the root comes first.
func (t *Tree) Nodes() iter.Seq[*Node] { return slices.Values(t.nodes) }

// Streams returns the layer streams of the chain, the bottom layer first.
func (t *Tree) Streams() []Stream { return slices.Clone(t.streams) }

// Node is one inode: a file, with all the names it has, or a directory. Callers
// must not change it.
type Node struct {
	// Ino numbers the inodes of a tree from 1 on, the same for the same layers.
	Ino uint64
	// Type is never [index.TypeLink]: links are further names of the same node.
	Type index.Type
	// shared says, during the merge, that the node has names in several layers.
	shared bool
	// Mode holds permission, set-id and sticky bits, without the type.
	Mode uint32
	UID  uint32
	GID  uint32
	// Nlink is the number of names that the layer of the file gives it, as an overlay
	// shows it: layers above may hide some. For directories it is as Unix counts them.
	Nlink uint32
	// Layer is the number of the layer whose stream Segments refers to.
	Layer int
	// Size is the length in bytes of a regular file, holes included, or of the
	// target of a symbolic link.
	Size    int64
	ModTime time.Time
	// Target is the target of a symbolic link.
	Target string
	// Major and Minor are the numbers of a device node, 12 and 20 bits.
	Major uint32
	Minor uint32
	// Xattrs is sorted by name and holds only what a Linux kernel would have let
	// containerd set.
	Xattrs []index.Xattr
	// Segments and Literals are the content of a regular file, as in [index.Entry].
	Segments []index.Segment
	Literals []index.Literal

	dir *directory
}

// IsDir reports whether the node is a directory.
func (n *Node) IsDir() bool { return n.dir != nil }

// isWhiteout reports whether an overlay takes the node for a whiteout.
func (n *Node) isWhiteout() bool { return n.Type == index.TypeChar && n.Major == 0 && n.Minor == 0 }

// Parent returns the directory that a directory is in; the root is in itself. It
// is nil for everything that may have several names.
func (n *Node) Parent() *Node {
	if n.dir == nil {
		return nil
	}
	return n.dir.parent
}

// Children returns what a directory holds, sorted by name in the order of bytes,
// without "." and "..". It is nil for everything else.
func (n *Node) Children() []Child {
	if n.dir == nil {
		return nil
	}
	return n.dir.children
}

// Lookup returns the node of that name in a directory, and whether there is one.
func (n *Node) Lookup(name string) (*Node, bool) {
	children := n.Children()
	i, found := slices.BinarySearchFunc(children, name, func(c Child, name string) int { return strings.Compare(c.Name, name) })
	if !found {
		return nil, false
	}
	return children[i].Node, true
}

// Child is one name in a directory.
type Child struct {
	Name string
	Node *Node
}

// directory is what only directories have.
type directory struct {
	parent   *Node
	children []Child // set when the merge is done

	// The rest is for the merge.
	name    string
	path    int             // length of the path from the root, slashes included
	entries map[string]slot // nil once children is set
	opaque  bool
}

// slot is a name in a directory of a layer.
type slot struct {
	node *Node
	// described says that an entry describes the name; a directory may exist only
	// because something is in it.
	described bool
}

func newDirectory(parent *Node, name string) *directory {
	d := &directory{parent: parent, name: name, entries: make(map[string]slot)}
	if parent != nil {
		d.path = parent.dir.path + 1 + len(name)
	}
	return d
}

// path returns the path of a directory from the root on, with a slash in front of
// every name.
func (n *Node) path() string {
	var names []string
	for ; n.dir.parent != n; n = n.dir.parent {
		names = append(names, n.dir.name)
	}
	slices.Reverse(names)
	return "/" + strings.Join(names, "/")
}
