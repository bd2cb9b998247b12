package erofs

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/brisk-project/brisk/image/index"
)

// What follows is the subset of the EROFS format that rootfs metadata needs, as
// the kernel's fs/erofs/erofs_fs.h defines it. Numbers are little endian.
const (
	blockBits = 9 // the binary logarithm of the block size
	blockSize = 1 << blockBits

	superOffset = 1024
	superSize   = 128
	superMagic  = 0xe0f5e1e2

	// There is no superblock checksum: it is optional, protects a single block, and
	// fsck.erofs as of version 1.8 crashes over it where blocks have 512 bytes.
	compatMtime = 0x2

	incompatChunkedFile = 0x4
	incompatDeviceTable = 0x8

	deviceSlotSize = 128

	slotSize     = 32 // inodes start at multiples of it, and nids count them
	compactSize  = 32
	extendedSize = 64

	layoutPlain  = 0
	layoutInline = 2
	layoutChunk  = 4

	chunkIndexes   = 0x20 // in the chunk format: 8-byte indexes
	chunkIndexSize = 8
	maxChunkBits   = 31 // more does not fit the chunk format
	holeAddress    = math.MaxUint32

	direntSize = 12

	xattrHeaderSize = 12
	xattrEntrySize  = 4
	maxXattrUnits   = math.MaxUint16
)

// blocksOf returns how many blocks hold size bytes.
func blocksOf(size int64) int64 { return (size + blockSize - 1) >> blockBits }

// superblock is what varies of a superblock.
type superblock struct {
	root    uint16 // nid
	inodes  uint64
	time    int64 // of compact inodes
	nanos   uint32
	blocks  uint32
	uuid    [16]byte
	devices uint16
}

// encode returns the superblock.
func (s *superblock) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, superSize)
	le.PutUint32(b, superMagic)
	le.PutUint32(b[8:], compatMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], s.root)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint64(b[24:], uint64(s.time))
	le.PutUint32(b[32:], s.nanos)
	le.PutUint32(b[36:], s.blocks)
	copy(b[48:], s.uuid[:])
	le.PutUint32(b[80:], incompatChunkedFile|incompatDeviceTable)
	le.PutUint16(b[86:], s.devices)
	le.PutUint16(b[88:], (superOffset+superSize)/deviceSlotSize)
	return b
}

// deviceSlot encodes the slot of a layer stream: its digest and its blocks.
func deviceSlot(s Stream) []byte {
	b := make([]byte, deviceSlotSize)
	copy(b, s.DiffID.Hex())
	binary.LittleEndian.PutUint32(b[64:], uint32(blocksOf(s.Size)))
	return b
}

// alignUp rounds n up to a multiple of a power of two.
func alignUp(n, to int64) int64 { return (n + to - 1) &^ (to - 1) }

// inode is an inode as it is encoded.
type inode struct {
	node    *Node
	compact bool
	layout  uint16
	xattrs  int    // length in bytes of the extended attributes
	size    int64  // of the content
	content uint32 // block address, device number or chunk format
}

// append encodes the inode and appends it to b.
func (i *inode) append(b []byte) []byte {
	le, n := binary.LittleEndian, i.node
	format, units := i.layout<<1, uint16(0)
	if i.xattrs > 0 {
		units = uint16(1 + (i.xattrs-xattrHeaderSize)/xattrEntrySize)
	}
	mode := uint16(n.Mode&modeMask) | typeBits(n.Type)
	if i.compact {
		b = le.AppendUint16(b, format)
		b = le.AppendUint16(b, units)
		b = le.AppendUint16(b, mode)
		b = le.AppendUint16(b, uint16(n.Nlink))
		b = le.AppendUint32(b, uint32(i.size))
		b = le.AppendUint32(b, 0)
		b = le.AppendUint32(b, i.content)
		b = le.AppendUint32(b, uint32(n.Ino))
		b = le.AppendUint16(b, uint16(n.UID))
		b = le.AppendUint16(b, uint16(n.GID))
		return le.AppendUint32(b, 0)
	}
	b = le.AppendUint16(b, format|1)
	b = le.AppendUint16(b, units)
	b = le.AppendUint16(b, mode)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, uint64(i.size))
	b = le.AppendUint32(b, i.content)
	b = le.AppendUint32(b, uint32(n.Ino))
	b = le.AppendUint32(b, n.UID)
	b = le.AppendUint32(b, n.GID)
	b = le.AppendUint64(b, uint64(n.ModTime.Unix()))
	b = le.AppendUint32(b, uint32(n.ModTime.Nanosecond()))
	b = le.AppendUint32(b, n.Nlink)
	return append(b, make([]byte, 16)...)
}

// typeBits returns the type of a node as st_mode holds it.
func typeBits(t index.Type) uint16 {
	switch t {
	case index.TypeDir:
		return 0o040000
	case index.TypeSymlink:
		return 0o120000
	case index.TypeChar:
		return 0o020000
	case index.TypeBlock:
		return 0o060000
	case index.TypeFifo:
		return 0o010000
	default:
		return 0o100000
	}
}

// direntType returns the type of a node as directories hold it.
func direntType(t index.Type) byte {
	switch t {
	case index.TypeDir:
		return 2
	case index.TypeSymlink:
		return 7
	case index.TypeChar:
		return 3
	case index.TypeBlock:
		return 4
	case index.TypeFifo:
		return 5
	default:
		return 1
	}
}

// deviceNumber encodes the numbers of a device node as Linux has since 2.6.
func deviceNumber(major, minor uint32) uint32 { return minor&0xff | major<<8 | minor&^0xff<<12 }

// xattrName splits the full name of an extended attribute into the number of its
// namespace and the rest. The number is 0 for a name that EROFS cannot hold.
func xattrName(name string) (namespace byte, rest string) {
	switch {
	case name == accessACL:
		return 2, ""
	case name == defaultACL:
		return 3, ""
	case strings.HasPrefix(name, userPrefix):
		return 1, name[len(userPrefix):]
	case strings.HasPrefix(name, securityPrefix):
		return 6, name[len(securityPrefix):]
	default:
		return 0, ""
	}
}

// xattrsSize returns the encoded length in bytes of extended attributes, and
// whether they fit the format.
func xattrsSize(list []index.Xattr) (int, bool) {
	if len(list) == 0 {
		return 0, true
	}
	size := xattrHeaderSize
	for _, x := range list {
		namespace, rest := xattrName(x.Name)
		if namespace == 0 || len(rest) > math.MaxUint8 || len(x.Value) > math.MaxUint16 {
			return 0, false
		}
		size += int(alignUp(int64(xattrEntrySize+len(rest)+len(x.Value)), xattrEntrySize))
	}
	return size, (size-xattrHeaderSize)/xattrEntrySize < maxXattrUnits
}

// appendXattrs encodes extended attributes that xattrsSize has accepted.
func appendXattrs(b []byte, list []index.Xattr) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, make([]byte, xattrHeaderSize)...)
	for _, x := range list {
		namespace, rest := xattrName(x.Name)
		b = append(b, byte(len(rest)), namespace)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(x.Value)))
		b = append(b, rest...)
		b = append(b, x.Value...)
		for (len(rest)+len(x.Value))%xattrEntrySize != 0 {
			b = append(b, 0)
			rest += "\x00"
		}
	}
	return b
}
