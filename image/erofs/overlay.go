package erofs

import (
	"slices"
)

// view is what an overlay shows under one name: a file, or the directories that it
// merges, the uppermost first, whose attributes the merged directory has.
type view []*Node

// lookup returns what a name shows in a merged directory, nothing if it is hidden or
// does not exist.
func (v view) lookup(name string) view {
	var found view
	for _, d := range v {
		s, exists := d.dir.entries[name]
		switch {
		case !exists:
		case s.node.IsDir():
			found = append(found, s.node)
			if s.node.dir.opaque {
				return found
			}
		case len(found) == 0 && !s.node.isWhiteout():
			return view{s.node}
		default:
			return found
		}
	}
	return found
}

// children returns what a merged directory shows, sorted by name.
func (v view) children() (names []string, views []view) {
	most := 0
	for _, d := range v {
		most = max(most, len(d.dir.entries))
	}
	names = make([]string, 0, most)
	for i, d := range v {
		for name := range d.dir.entries {
			if !slices.ContainsFunc(v[:i], func(above *Node) bool { _, ok := above.dir.entries[name]; return ok }) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	shown := names[:0]
	views = make([]view, 0, len(names))
	for _, name := range names {
		if child := v.lookup(name); len(child) > 0 {
			shown, views = append(shown, name), append(views, child)
		}
	}
	return shown, views
}

// countNames counts the names of every file in an unpacked layer.
func countNames(root *Node) {
	for pending := []*Node{root}; len(pending) > 0; {
		d := pending[len(pending)-1].dir
		pending = pending[:len(pending)-1]
		for _, s := range d.entries {
			switch {
			case s.node.IsDir():
				pending = append(pending, s.node)
			case !s.node.shared:
				s.node.Nlink++
			}
		}
	}
}

// freeze merges the layers below a view of the root: every directory gets its sorted
// children, every node its number. It returns the nodes in the order of the numbers.
// That the root of a layer is opaque means nothing to an overlay.
func freeze(root view) []*Node {
	nodes := []*Node{root[0]}
	root[0].Ino = 1
	for pending := []view{root}; len(pending) > 0; {
		v := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		n := v[0]
		names, views := v.children()
		for _, merged := range v {
			merged.dir.entries = nil
		}
		n.Nlink = 2
		n.dir.children = make([]Child, 0, len(names))
		before := len(pending)
		for i, name := range names {
			c := views[i][0]
			n.dir.children = append(n.dir.children, Child{Name: name, Node: c})
			if c.shared {
				c.Nlink++
			}
			if c.Ino != 0 {
				continue
			}
			nodes = append(nodes, c)
			c.Ino = uint64(len(nodes))
			if c.IsDir() {
				n.Nlink++
				c.dir.parent = n
				pending = append(pending, views[i])
			}
		}
		// The first directory is to be taken from the stack first, so that inodes
		// stand in the order in which a walk of the tree meets them.
		slices.Reverse(pending[before:])
	}
	return nodes
}
