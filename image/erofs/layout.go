package erofs

import (
	"errors"
	"fmt"
	"math"
)

// ErrTooLarge means that the rootfs metadata would exceed a limit. The text of the
// error names it.
var ErrTooLarge = errors.New("rootfs metadata too large")

const pageSize = 4096

// placement says where an inode and its content are in the image.
type placement struct {
	inode   int64 // byte offset
	data    int64 // block address of the content that is not inline
	size    int64 // length of the content of directories and symbolic links
	xattrs  int32 // encoded length of the extended attributes
	compact bool
	inline  bool // the last part of the content stands behind the inode
}

// body returns where the extended attributes end.
func (p *placement) body() int64 {
	if p.compact {
		return p.inode + compactSize + int64(p.xattrs)
	}
	return p.inode + extendedSize + int64(p.xattrs)
}

// tail returns how many bytes of the content are inline.
func (b *builder) tail(p *placement) int64 {
	if !p.inline {
		return 0
	}
	return p.size % blockSize
}

// indexesAt returns where the chunk indexes of a regular file start.
func (p *placement) indexesAt() int64 { return alignUp(p.body(), chunkIndexSize) }

// layout places all inodes behind the device table, in the order of their numbers,
// and then the blocks of content: those of directories, of long symbolic links and
// of literals.
func (b *builder) layout() error {
	b.places = make([]placement, b.tree.Len())
	end := b.headSize()
	for i, n := range b.tree.nodes {
		p := &b.places[i]
		size, ok := xattrsSize(n.Xattrs)
		if !ok {
			return fmt.Errorf("%w: extended attributes of %s: a value is longer than 65535 bytes or all take more than 262136", ErrTooLarge, b.name(n))
		}
		p.xattrs, p.compact = int32(size), b.fitsCompact(n)
		var err error
		if end, err = b.place(n, p, end); err != nil {
			return err
		}
		if end > b.limit {
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, b.limit)
		}
	}
	// Readers that do not know yet which size an inode has read the larger.
	next := blocksOf(end + extendedSize - compactSize)
	for i, n := range b.tree.nodes {
		p := &b.places[i]
		p.data = next
		switch {
		case len(n.Literals) > 0:
			numbers, err := literalBlocks(n)
			if err != nil {
				return fmt.Errorf("placing %s: %w", b.name(n), err)
			}
			next += int64(len(numbers))
		case p.inline:
			next += p.size >> blockBits
		default:
			next += blocksOf(p.size)
		}
		if next > min(b.limit>>blockBits, math.MaxUint32-1) {
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, b.limit)
		}
	}
	// Loop devices and old tools want whole pages.
	b.blocks = blocksOf(alignUp(next<<blockBits, pageSize))
	return nil
}

// headSize returns where the device table ends, in bytes.
func (b *builder) headSize() int64 {
	return int64(superOffset + superSize + deviceSlotSize*len(b.tree.streams))
}

// place places one inode at byte end or behind it, and returns where it ends with
// all that stands behind it.
func (b *builder) place(n *Node, p *placement, end int64) (int64, error) {
	p.inode = alignUp(end, slotSize)
	switch {
	case n.IsDir():
		p.size = directorySize(n)
		b.placeInline(p)
	case n.Target != "":
		p.size = n.Size
		b.placeInline(p)
	default:
		b.keepWhole(p, p.body()-p.inode-int64(p.xattrs))
	}
	if n.Size == 0 || n.IsDir() || n.Target != "" {
		return p.body() + b.tail(p), nil
	}
	// How literals will be placed does not matter for the number of chunks.
	c, err := b.chunksOf(n, 0)
	if err != nil {
		return 0, fmt.Errorf("placing %s: %w", b.name(n), err)
	}
	if c.count > b.limit/chunkIndexSize {
		return 0, fmt.Errorf("%w: %s is sparse and takes %d chunks", ErrTooLarge, b.name(n), c.count)
	}
	return p.indexesAt() + c.count*chunkIndexSize, nil
}

// placeInline moves the inode to where it fits one block with the tail of its
// content: the kernel reads an inline tail in one piece, and that of a symbolic
// link together with the inode. Content whose tail does not fit is not inline.
func (b *builder) placeInline(p *placement) {
	tail, header := p.size%blockSize, p.body()-p.inode
	p.inline = tail > 0 && header+tail <= blockSize
	if p.inline {
		b.keepWhole(p, header+tail)
	} else {
		b.keepWhole(p, header-int64(p.xattrs))
	}
}

// keepWhole moves the inode to the next block if size bytes from it on would not
// end in the block it is in.
func (b *builder) keepWhole(p *placement, size int64) {
	if p.inode%blockSize+size > blockSize {
		p.inode = alignUp(p.inode, blockSize)
	}
}

// fitsCompact reports whether the short form of an inode can hold a node. It has no
// room for a time and stands for the build time.
func (b *builder) fitsCompact(n *Node) bool {
	return n.ModTime.Equal(b.time) && n.UID <= math.MaxUint16 && n.GID <= math.MaxUint16 &&
		n.Nlink <= math.MaxUint16 && n.Size <= math.MaxUint32
}

// nid returns the number that directories and the superblock refer to a node by.
func (b *builder) nid(n *Node) uint64 {
	return uint64(b.places[n.Ino-1].inode / slotSize)
}

// name describes a node in an error.
func (b *builder) name(n *Node) string {
	if n.IsDir() {
		return fmt.Sprintf("directory %.300q", n.path())
	}
	for _, parent := range b.tree.nodes {
		for _, child := range parent.Children() {
			if child.Node == n {
				return fmt.Sprintf("%.300q in directory %.300q", child.Name, parent.path())
			}
		}
	}
	return fmt.Sprintf("inode %d", n.Ino)
}
