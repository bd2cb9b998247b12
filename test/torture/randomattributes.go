package torture

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"time"
)

// attributes gives a member a random mode, owner, time and extended attributes, all of
// which a Linux kernel takes or refuses as not supported.
func (l *randomLayer) attributes(it item) item {
	if l.chance(50) {
		modes := []int64{0, 0o1, 0o400, 0o644, 0o700, 0o755, 0o1777, 0o2755, 0o2070, 0o4755, 0o6711, 0o7777}
		it.header.Mode = modes[l.rng.IntN(len(modes))]
	}
	if l.chance(40) {
		ids := []int{0, 1, 1000, 65534, 65535, 65536, 2097152, 1 << 31, 1<<32 - 2}
		it = it.owner(ids[l.rng.IntN(len(ids))], ids[l.rng.IntN(len(ids))])
	}
	if l.chance(50) {
		seconds := []int64{0, 1, -1, -2_000_000_000, 1<<31 - 1, 1 << 31, 1 << 32, 7_258_118_400, 20_000_000_000, 1_700_000_000}
		nanoseconds := []int64{0, 0, 1, 999_999_999, 123_000_000}
		it = it.at(seconds[l.rng.IntN(len(seconds))], nanoseconds[l.rng.IntN(len(nanoseconds))])
	}
	if l.chance(10) {
		it.header.AccessTime = it.header.ModTime.Add(time.Hour)
		it.header.ChangeTime = it.header.ModTime.Add(-time.Hour)
	}
	if l.chance(20) {
		it.header.Uname, it.header.Gname = "nobody", "nogroup"
	}
	if l.chance(30) {
		for range 1 + l.rng.IntN(3) {
			name, value := l.attribute(it.header.Typeflag)
			it = it.xattr(name, value)
		}
	}
	return it
}

// attribute chooses an extended attribute for a member.
func (l *randomLayer) attribute(typeflag byte) (name, value string) {
	value = string(content(fmt.Sprintf("value %d", l.rng.IntN(1000)), l.rng.IntN(80)))
	isFile := typeflag == tar.TypeReg
	switch n := l.rng.IntN(20); {
	case n == 0:
		return "user.large", string(content("large", 400+l.rng.IntN(8000)))
	case n == 1:
		return "security.selinux", "system_u:object_r:bin_t:s0\x00"
	case n == 2:
		return []string{"trusted.overlay.opaque", "trusted.overlay.whiteout", "trusted.x"}[l.rng.IntN(3)], "y"
	case n == 3:
		return []string{"user.overlay.opaque", "user.overlay.redirect", "user.overlay.metacopy", "user.overlay.whiteout"}[l.rng.IntN(4)], "y"
	case n == 4:
		return "nonsense.name", value
	case n <= 7 && isFile:
		return "security.capability", l.capability()
	case n <= 10 && (isFile || typeflag == tar.TypeDir):
		return accessACL, l.acl()
	case n <= 13 && typeflag == tar.TypeDir:
		return defaultACL, l.acl()
	case n <= 15:
		return fmt.Sprintf("security.label-%d", l.rng.IntN(3)), value
	default:
		return fmt.Sprintf("user.%c", "abc"[l.rng.IntN(3)]), value
	}
}

// capability encodes a file capability set of revision 2, or 3, which has a user number.
func (l *randomLayer) capability() string {
	value := []byte(capability(l.rng.Uint32() & 0xffff))
	if l.chance(30) {
		binary.LittleEndian.PutUint32(value, 0x03000001)
		value = binary.LittleEndian.AppendUint32(value, 1000)
	}
	return string(value)
}

// acl chooses an ACL: one that the mode could say as well, or one with a mask.
func (l *randomLayer) acl() string {
	perm := func() uint16 { return uint16(l.rng.IntN(8)) }
	entries := []aclEntry{{aclUserObj, perm(), aclNobody}}
	named := l.chance(70)
	if named {
		entries = append(entries, aclEntry{aclUser, perm(), 1000})
	}
	entries = append(entries, aclEntry{aclGroupObj, perm(), aclNobody})
	if named && l.chance(50) {
		entries = append(entries, aclEntry{aclGroup, perm(), uint32(l.rng.IntN(3)) * 100})
	}
	if named || l.chance(30) {
		entries = append(entries, aclEntry{aclMask, perm(), aclNobody})
	}
	return acl(append(entries, aclEntry{aclOther, perm(), aclNobody})...)
}
