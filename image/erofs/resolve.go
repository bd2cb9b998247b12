package erofs

import (
	"path"
	"strings"

	"github.com/brisk-project/brisk/image/index"
)

const (
	// maxKernelLinks is the number of symbolic links that one path may lead through, as in Linux.
	maxKernelLinks = 40
	// maxComponents bounds the names that one path has with the targets of its links: chains of
	// long links would otherwise take long to follow.
	maxComponents = 1024
)

// Resolve returns the node that a path leads to, and whether there is one. It follows symbolic links
// as inside a container: none leads out of the root. A relative path begins in dir, a directory of
// the tree.
func (t *Tree) Resolve(dir *Node, name string) (*Node, bool) {
	if path.IsAbs(name) {
		dir = t.Root()
	}
	at, left := dir, strings.Split(name, "/")
	links := 0
	for steps := 0; len(left) > 0; steps++ {
		if steps > maxComponents || !at.IsDir() {
			return nil, false
		}
		component := left[0]
		left = left[1:]
		switch component {
		case "", ".":
			continue
		case "..":
			at = at.Parent()
			continue
		}
		next, ok := at.Lookup(component)
		if !ok {
			return nil, false
		}
		if next.Type != index.TypeSymlink {
			at = next
			continue
		}
		if links++; links > maxKernelLinks {
			return nil, false
		}
		if path.IsAbs(next.Target) {
			at = t.Root()
		}
		left = append(strings.Split(next.Target, "/"), left...)
	}
	return at, true
}
