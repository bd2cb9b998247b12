package erofs

import (
	"fmt"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/brisk-project/brisk/image/index"
)

// maxLinks is how many symbolic links one path may lead through, as many as
// containerd follows.
const maxLinks = 255

// walk follows a path from the root of a layer on, through symbolic links, the last
// name included. No path leads out of the root. It returns the node reached, and what
// is left of the path where a name does not exist; then the node is a directory.
func walk(root *Node, rest string) (n *Node, missing string, err error) {
	n = root
	for links := 0; rest != ""; {
		name, after, _ := strings.Cut(rest, "/")
		if !n.IsDir() {
			return nil, "", syscall.ENOTDIR
		}
		s, found := n.dir.entries[name]
		if !found {
			return n, rest, nil
		}
		if s.node.Type != index.TypeSymlink {
			n, rest = s.node, after
			continue
		}
		if links++; links > maxLinks {
			return nil, "", syscall.ELOOP
		}
		// As in containerd, ".." in a target takes away the name before it, even
		// where that is a symbolic link.
		target := s.node.Target
		if !strings.HasPrefix(target, "/") {
			target = n.path() + "/" + target
		}
		rest = path.Join("/", target, after)[1:]
		if len(rest) > maxPath {
			return nil, "", syscall.ENAMETOOLONG
		}
		n = root
	}
	return n, "", nil
}

// find returns the node that a path names in a layer, not following its last name.
func find(root *Node, of string) (*Node, error) {
	parentPath, base := split(of)
	dir, missing, err := walk(root, parentPath)
	switch {
	case err != nil:
		return nil, err
	case missing != "":
		return nil, syscall.ENOENT
	case !dir.IsDir():
		return nil, syscall.ENOTDIR
	}
	s, found := dir.dir.entries[base]
	switch {
	case !found:
		return nil, syscall.ENOENT
	case s.node.IsDir():
		return nil, syscall.EISDIR
	}
	return s.node, nil
}

// makeParent returns the directory that a path leads to, and makes what is missing
// of it.
func (m *merger) makeParent(parentPath string) (*Node, error) {
	n, missing, err := walk(m.root, parentPath)
	if err == nil && !n.IsDir() {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, fmt.Errorf("directory %.300q: %w", parentPath, err)
	}
	if missing == "" {
		return n, nil
	}
	for name := range strings.SplitSeq(missing, "/") {
		if n, err = m.makeDir(n, name); err != nil {
			return nil, fmt.Errorf("directory %.300q: %w", parentPath, err)
		}
	}
	return n, nil
}

// makeDir makes a directory that no entry describes.
func (m *merger) makeDir(parent *Node, name string) (*Node, error) {
	if len(name) > maxName || parent.dir.path+1+len(name) > maxPath {
		return nil, syscall.ENAMETOOLONG
	}
	n := &Node{Type: index.TypeDir, ModTime: time.Unix(0, 0).UTC(), dir: newDirectory(parent, name)}
	if err := m.adopt(parent, n); err != nil {
		return nil, err
	}
	n.chmod(defaultMode)
	parent.dir.entries[name] = slot{n, false}
	return n, m.copyAttributes(n)
}

// copyAttributes gives a directory that no entry describes the attributes of the
// directory that has its path in a layer below. As in containerd each layer is looked at
// by itself: that another one hides the directory does not matter.
func (m *merger) copyAttributes(n *Node) error {
	for _, root := range m.below {
		lower, missing, err := walk(root, n.path()[1:])
		if err != nil {
			return err
		}
		if missing != "" {
			continue
		}
		if lower.IsDir() {
			n.UID, n.GID, n.ModTime = lower.UID, lower.GID, lower.ModTime
			n.chmod(lower.Mode)
			for _, x := range lower.Xattrs {
				n.setXattr(x)
			}
		}
		return nil
	}
	return nil
}
