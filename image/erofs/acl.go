package erofs

import (
	"encoding/binary"
	"errors"
	"math"
	"syscall"

	"github.com/brisk-project/brisk/image/index"
)

// The encoding of a POSIX ACL in an extended attribute: a version, then entries of
// a tag, the permission bits and, for named users and groups, their number.
const (
	aclVersion   = 2
	aclHeader    = 4
	aclEntrySize = 8
	aclNoID      = math.MaxUint32

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	permBits = 0o7
)

var errACL = errors.New("malformed ACL")

// addACL sets an ACL of an entry as the kernel does: one that says no more than
// the mode is not kept as the access ACL, and one without entries removes.
func (n *Node) addACL(x index.Xattr) error {
	value, err := normalACL(x.Value)
	if errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	if x.Name == defaultACL && !n.IsDir() {
		return syscall.EACCES
	}
	if value == "" || x.Name == accessACL && minimalACL(value) {
		n.removeXattr(x.Name)
		return nil
	}
	n.setXattr(index.Xattr{Name: x.Name, Value: value})
	return nil
}

// normalACL checks an encoded ACL and returns the encoding that the kernel gives
// back: numbers that mean nothing are all ones. The result is empty for an ACL
// without entries.
func normalACL(value string) (string, error) {
	if len(value) < aclHeader || (len(value)-aclHeader)%aclEntrySize != 0 {
		return "", errACL
	}
	b := []byte(value)
	if binary.LittleEndian.Uint32(b) != aclVersion {
		return "", syscall.ENOTSUP
	}
	var seen, last uint16
	for e := b[aclHeader:]; len(e) > 0; e = e[aclEntrySize:] {
		tag, perm, id := binary.LittleEndian.Uint16(e), binary.LittleEndian.Uint16(e[2:]), binary.LittleEndian.Uint32(e[4:])
		named := tag == aclUser || tag == aclGroup
		switch {
		case tag == 0 || tag&(tag-1) != 0 || tag > aclOther || perm > permBits:
			return "", errACL
		case tag < last || tag == last && !named || named && id == aclNoID:
			return "", errACL
		}
		if !named {
			binary.LittleEndian.PutUint32(e[4:], aclNoID)
		}
		seen, last = seen|tag, tag
	}
	const always = aclUserObj | aclGroupObj | aclOther
	switch {
	case seen == 0:
		return "", nil
	case seen&always != always, seen&(aclUser|aclGroup) != 0 && seen&aclMask == 0:
		return "", errACL
	}
	return string(b), nil
}

// minimalACL reports whether a checked ACL has no entry but the three that the
// mode has as well.
func minimalACL(value string) bool { return len(value) == aclHeader+3*aclEntrySize && !hasMask(value) }

func hasMask(value string) bool {
	for i := aclHeader; i < len(value); i += aclEntrySize {
		if value[i] == aclMask {
			return true
		}
	}
	return false
}

// withMode returns the ACL after a change of the mode: the bits of the group go to
// the mask, if there is one.
func withMode(value string, mode uint32) string {
	b := []byte(value)
	group := byte(aclGroupObj)
	if hasMask(value) {
		group = aclMask
	}
	for e := b[aclHeader:]; len(e) > 0; e = e[aclEntrySize:] {
		switch e[0] {
		case aclUserObj:
			e[2] = byte(mode >> 6 & permBits)
		case group:
			e[2] = byte(mode >> 3 & permBits)
		case aclOther:
			e[2] = byte(mode & permBits)
		}
	}
	return string(b)
}

// inheritACL gives a new node the default ACL of its directory, which unpacking
// meets too. The mode that is set next completes it.
func (n *Node) inheritACL(parent *Node) {
	value, ok := parent.xattr(defaultACL)
	if !ok || n.Type == index.TypeSymlink {
		return
	}
	if !minimalACL(value) {
		n.setXattr(index.Xattr{Name: accessACL, Value: value})
	}
	if n.IsDir() {
		n.setXattr(index.Xattr{Name: defaultACL, Value: value})
	}
}
