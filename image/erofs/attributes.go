package erofs

import (
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/brisk-project/brisk/image/index"
)

const (
	capabilityXattr = "security.capability"
	userPrefix      = "user."
	securityPrefix  = "security."
	accessACL       = "system.posix_acl_access"
	defaultACL      = "system.posix_acl_default"

	maxXattrValue = 65536 // the kernel's limit in bytes
)

// describe gives the node the attributes of an entry, in the order in which
// unpacking sets them on a file: each step has effects on what the step before
// has left. The node may have been described before, by an entry for the same
// directory or by the entry of another link.
func (n *Node) describe(e *index.Entry) error {
	n.UID, n.GID = e.UID, e.GID
	if !n.IsDir() {
		// Linux takes its capabilities from a file that changes its owner, even if
		// the new owner is the old one.
		n.removeXattr(capabilityXattr)
	}
	for _, x := range e.Xattrs {
		if err := n.addXattr(x); err != nil {
			return fmt.Errorf("extended attribute %.300q: %w", x.Name, err)
		}
	}
	if n.Type != index.TypeSymlink {
		n.chmod(e.Mode & modeMask)
	}
	n.ModTime = e.ModTime
	return nil
}

// chmod sets the mode and what follows from it in the ACL.
func (n *Node) chmod(mode uint32) {
	n.Mode = mode
	if value, ok := n.xattr(accessACL); ok {
		n.setXattr(index.Xattr{Name: accessACL, Value: withMode(value, mode)})
	}
}

// addXattr sets an extended attribute of an entry, or leaves it out where the
// kernel would have refused it as not supported, which unpacking passes over:
// trusted attributes, which layers may not set, user attributes of anything but
// regular files and directories, ACLs of symbolic links, and unknown namespaces.
func (n *Node) addXattr(x index.Xattr) error {
	if len(x.Name) > maxName || len(x.Value) > maxXattrValue || strings.IndexByte(x.Name, 0) >= 0 {
		return fmt.Errorf("name of %d bytes and value of %d bytes: %w", len(x.Name), len(x.Value), syscall.E2BIG)
	}
	switch {
	case x.Name == accessACL || x.Name == defaultACL:
		if n.Type == index.TypeSymlink {
			return nil
		}
		return n.addACL(x)
	case x.Name == userPrefix || x.Name == securityPrefix:
		return syscall.EINVAL
	case strings.HasPrefix(x.Name, securityPrefix):
		n.setXattr(x)
	case strings.HasPrefix(x.Name, userPrefix) && (n.Type == index.TypeReg || n.Type == index.TypeDir):
		n.setXattr(x)
	}
	return nil
}

func compareXattr(x index.Xattr, name string) int { return strings.Compare(x.Name, name) }

func (n *Node) xattr(name string) (string, bool) {
	i, found := slices.BinarySearchFunc(n.Xattrs, name, compareXattr)
	if !found {
		return "", false
	}
	return n.Xattrs[i].Value, true
}

// setXattr sets an extended attribute. The list is copied, because the entries of
// an index share theirs.
func (n *Node) setXattr(x index.Xattr) {
	i, found := slices.BinarySearchFunc(n.Xattrs, x.Name, compareXattr)
	if found && n.Xattrs[i].Value == x.Value {
		return
	}
	list := make([]index.Xattr, 0, len(n.Xattrs)+1)
	list = append(list, n.Xattrs[:i]...)
	list = append(list, x)
	if found {
		i++
	}
	n.Xattrs = append(list, n.Xattrs[i:]...)
}

func (n *Node) removeXattr(name string) {
	i, found := slices.BinarySearchFunc(n.Xattrs, name, compareXattr)
	if !found {
		return
	}
	n.Xattrs = slices.Concat(n.Xattrs[:i], n.Xattrs[i+1:])
}
