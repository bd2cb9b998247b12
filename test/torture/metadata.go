package torture

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"strings"
)

// metadataImages try owners, modes, times, devices and extended attributes.
func metadataImages() []Image {
	return []Image{
		{Name: "modes", Layers: [][]byte{layer(modes()...)}},
		{Name: "owners", Layers: [][]byte{layer(owners()...)}},
		{Name: "times", Layers: [][]byte{layer(times()...)}},
		{Name: "devices", Layers: [][]byte{layer(devices()...)}},
		{Name: "xattrs", Layers: [][]byte{layer(xattrs()...), layer(moreXattrs()...)}},
		{Name: "large-xattrs", Layers: [][]byte{layer(largeXattrs()...)}},
		{Name: "capabilities", Layers: [][]byte{layer(capabilities()...)}},
		{Name: "acls", Layers: [][]byte{layer(acls()...), layer(moreACLs()...)}},
	}
}

func modes() []item {
	items := []item{dir("modes")}
	for _, mode := range []int64{0, 0o1, 0o100, 0o400, 0o444, 0o600, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777} {
		items = append(items,
			file(fmt.Sprintf("modes/file-%04o", mode), 3).mode(mode).owner(1, 1),
			dir(fmt.Sprintf("modes/dir-%04o", mode)).mode(mode).owner(2, 2))
	}
	return append(items,
		// The group of a directory with the set-group-id bit is inherited by what
		// is made in it without an owner of its own.
		dir("setgid").mode(0o2775).owner(0, 50),
		file("setgid/implicit/file", 1),
		file("setgid/implicit/deeper/file", 1),
		file("setgid/file", 1),
		dir("setgid/dir"))
}

func owners() []item {
	items := []item{dir("owners")}
	for _, id := range []int{0, 1, 65534, 65535, 65536, 70000, 2097151, 2097152, 1<<31 - 1, 1 << 31, 1<<32 - 2} {
		items = append(items,
			file(fmt.Sprintf("owners/user-%d", id), 3).owner(id, 0),
			dir(fmt.Sprintf("owners/group-%d", id)).owner(0, id))
	}
	return append(items, file("owners/gnu", 3).format(tar.FormatGNU).owner(3000000, 4000000))
}

func times() []item {
	const billion = 1_000_000_000
	return []item{
		dir("times").at(1, 1),
		file("times/epoch", 1).at(0, 0),
		file("times/first-nanosecond", 1).at(0, 1),
		file("times/last-nanosecond", 1).at(1, 999_999_999),
		file("times/before-1970", 1).at(-1, 0),
		file("times/long-before-1970", 1).at(-2*billion, 5),
		file("times/just-before-1970", 1).at(-1, 999_999_999),
		dir("times/directory-before-1970").at(-100, 0),
		file("times/2038", 1).at(1<<31, 0),
		file("times/2106", 1).at(1<<32, 123),
		file("times/2200", 1).at(7_258_118_400, 999_999_999),
		file("times/beyond-2262", 1).at(10*billion, 0),
		file("times/gnu-before-1970", 1).format(tar.FormatGNU).at(-5, 0),
		symlink("times/symlink", "x").at(12345, 678),
		fifo("times/fifo").at(12345, 679),
		dir("times/dir").at(billion, 1),
		dir("times/dir/dir").at(billion, 2),
		file("times/dir/dir/file", 1).at(billion, 3),
		file("times/dir/file", 1).at(billion, 4),
	}
}

func xattrs() []item {
	items := []item{dir("xattrs").xattr("user.on-directory", "yes")}
	// Every alignment of what follows the attributes, for every kind of inode.
	for size := range 71 {
		value := strings.Repeat("v", size)
		items = append(items, file(fmt.Sprintf("xattrs/size-%02d", size), 700+size).xattr("user.a", value))
		if size%3 == 0 {
			items = append(items,
				dir(fmt.Sprintf("xattrs/dir-%02d", size)).xattr("user.a", value),
				file(fmt.Sprintf("xattrs/dir-%02d/file", size), size),
				symlink(fmt.Sprintf("xattrs/symlink-%02d", size), value+"target").xattr("security.a", value))
		}
	}
	for length := range 12 {
		items = append(items, file(fmt.Sprintf("xattrs/name-%02d", length), 600).xattr("user.n"+strings.Repeat("m", length), "v"))
	}
	many := file("xattrs/many", 1000)
	for i := range 40 {
		many = many.xattr(fmt.Sprintf("user.attribute-%d", i), strings.Repeat("x", i))
	}
	return append(items, many,
		file("xattrs/binary", 600).xattr("user.binary", "\x00\x01\n=\xff\x00"),
		file("xattrs/spaces", 600).xattr("user.with space and 漢字", "v"),
		file("xattrs/dots", 600).xattr("user.a.b..c", "v"),
		file("xattrs/security", 600).xattr("security.selinux", "system_u:object_r:bin_t:s0\x00").xattr("security.ima", "\x01\x02"),
		// Names that unpacking leaves out.
		file("xattrs/trusted", 600).xattr("trusted.secret", "x").xattr("trusted.overlay.opaque", "y"),
		file("xattrs/unknown", 600).xattr("nonsense.name", "x").xattr("btrfs.compression", "zstd").xattr("user.kept", "1"),
		symlink("xattrs/user-on-symlink", "x").xattr("user.left-out", "1"),
		fifo("xattrs/user-on-fifo").xattr("user.left-out", "1").xattr("security.kept", "1"),
		file("xattrs/link-a", 600).xattr("user.first", "1").xattr("user.both", "a"),
		link("xattrs/link-b", "xattrs/link-a").xattr("user.second", "2").xattr("user.both", "b"))
}

// moreXattrs go on top of xattrs: what is described again keeps nothing of what it had.
func moreXattrs() []item {
	return []item{
		dir("xattrs").xattr("user.added", "1"),
		dir("xattrs/dir-03").xattr("user.a", "replaced"),
		dir("xattrs/dir-06"),
		file("xattrs/size-09", 10),
	}
}

func largeXattrs() []item {
	items := []item{dir("large")}
	for _, size := range []int{255, 256, 400, 470, 500, 512, 1000, 4000, 4096, 5000, 65000, 65535} {
		value := string(content("value", size))
		items = append(items,
			file(fmt.Sprintf("large/file-%d", size), 700).xattr("user.large", value),
			dir(fmt.Sprintf("large/dir-%d", size)).xattr("user.large", value),
			file(fmt.Sprintf("large/dir-%d/file", size), 1),
			symlink(fmt.Sprintf("large/symlink-%d", size), strings.Repeat("t", size%300+1)).xattr("security.large", value))
	}
	several := file("large/several", 1500)
	for i := range 3 {
		several = several.xattr(fmt.Sprintf("user.large-%d", i), string(content("several", 60000+i)))
	}
	return append(items, several,
		file("large/long-name", 600).xattr("user."+strings.Repeat("n", 250), "v"))
}

// capability encodes a file capability set, revision 2, effective.
func capability(permitted uint32) string {
	value := make([]byte, 20)
	binary.LittleEndian.PutUint32(value, 0x02000001)
	binary.LittleEndian.PutUint32(value[4:], permitted)
	return string(value)
}

func capabilities() []item {
	const name = "security.capability"
	netRaw, netBind := capability(1<<13), capability(1<<10)
	return []item{
		file("ping", 5000).mode(0o755).xattr(name, netRaw),
		file("server", 100).mode(0o755).xattr(name, netBind).owner(1000, 1000),
		file("setuid", 100).mode(0o4755).xattr(name, netRaw),
		// A further link without the capability takes it away, one with it keeps it.
		file("dropped", 100).mode(0o755).xattr(name, netRaw).xattr("user.stays", "1"),
		link("dropped-again", "dropped").mode(0o755),
		file("kept", 100).mode(0o755).xattr(name, netRaw),
		link("kept-again", "kept").mode(0o755).xattr(name, netRaw),
	}
}

// The tags of the entries of a POSIX ACL.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
	aclNobody   = 0xffffffff
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// acl encodes a POSIX ACL as the kernel takes it.
func acl(entries ...aclEntry) string {
	value := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		value = binary.LittleEndian.AppendUint16(value, e.tag)
		value = binary.LittleEndian.AppendUint16(value, e.perm)
		value = binary.LittleEndian.AppendUint32(value, e.id)
	}
	return string(value)
}

const (
	accessACL  = "system.posix_acl_access"
	defaultACL = "system.posix_acl_default"
)

func acls() []item {
	full := acl(
		aclEntry{aclUserObj, 6, aclNobody}, aclEntry{aclUser, 7, 1000}, aclEntry{aclUser, 4, 70000}, aclEntry{aclGroupObj, 4, aclNobody},
		aclEntry{aclGroup, 6, 100}, aclEntry{aclMask, 6, aclNobody}, aclEntry{aclOther, 0, aclNobody})
	minimal := acl(aclEntry{aclUserObj, 6, aclNobody}, aclEntry{aclGroupObj, 4, aclNobody}, aclEntry{aclOther, 4, aclNobody})
	return []item{
		file("agrees", 600).mode(0o660).xattr(accessACL, full),
		file("mode-wins", 600).mode(0o751).xattr(accessACL, full),
		file("minimal", 600).mode(0o644).xattr(accessACL, minimal),
		file("minimal-disagrees", 600).mode(0o600).xattr(accessACL, minimal),
		file("with-others", 600).mode(0o660).xattr(accessACL, full).xattr("user.x", "1"),
		dir("both").mode(0o770).xattr(accessACL, full).xattr(defaultACL, full),
		dir("minimal-default").mode(0o755).xattr(defaultACL, minimal),
		symlink("on-symlink", "x").xattr(accessACL, full),
		file("linked", 600).mode(0o660).xattr(accessACL, full),
		link("linked-again", "linked").mode(0o640),
		dir("journal").mode(0o2755).owner(0, 44).xattr(defaultACL, full),
		// What is made in a directory with a default ACL inherits it.
		file("journal/file", 600).mode(0o640),
		file("journal/own", 600).mode(0o640).xattr(accessACL, minimal),
		dir("journal/dir").mode(0o751),
		file("journal/implicit/file", 600),
		symlink("journal/symlink", "x"),
		fifo("journal/fifo"),
		link("journal/link", "linked").mode(0o640),
		file("minimal-default/file", 600).mode(0o604),
		dir("minimal-default/dir"),
	}
}

// moreACLs describe a directory again with another mode.
func moreACLs() []item {
	return []item{dir("both").mode(0o700), file("agrees", 5), file("journal/dir/upper", 5).mode(0o600), dir("journal").mode(0o700), file("journal/file", 7)}
}
