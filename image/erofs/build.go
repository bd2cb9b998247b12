package erofs

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// defaultMaxSize is room for the metadata of tens of millions of files.
const defaultMaxSize = 4 << 30

// maxSize is how far 32-bit numbers of slots of 32 bytes reach.
const maxSize = 128 << 30

// Config is what [Build] can be told.
type Config struct {
	// MaxSize is the length in bytes that the rootfs metadata may have at most. It
	// is a guard against indexes that claim absurdly fragmented sparse files. 0
	// means 4 GiB.
	MaxSize int64
}

// Stats describes rootfs metadata.
type Stats struct {
	Size   int64 // in bytes, a multiple of 4096
	Inodes int
}

// Build writes the rootfs metadata of a tree to w, front to back. It holds about 40
// bytes for each inode. Errors of w are returned wrapped; others wrap
// [ErrTooLarge], or tell of a tree that [Merge] did not make from a correct index.
func Build(w io.Writer, t *Tree, cfg Config) (Stats, error) {
	b, err := newBuilder(t, cfg)
	if err != nil {
		return Stats{}, err
	}
	if err := b.layout(); err != nil {
		return Stats{}, err
	}
	b.w = bufio.NewWriterSize(w, 1<<18)
	if err := b.write(); err != nil {
		return Stats{}, fmt.Errorf("writing rootfs metadata: %w", err)
	}
	if err := b.w.Flush(); err != nil {
		return Stats{}, fmt.Errorf("writing rootfs metadata: %w", err)
	}
	return Stats{Size: b.blocks << blockBits, Inodes: t.Len()}, nil
}

// builder encodes one tree.
type builder struct {
	tree  *Tree
	limit int64
	// time is the build time of the superblock, which compact inodes have for
	// their own. It is that of most inodes, if most have the same.
	time time.Time

	places []placement // by inode number, from 1 on
	blocks int64       // of the whole image

	w     *bufio.Writer
	pos   int64
	buf   []byte
	zeros [blockSize + pageSize]byte
}

func newBuilder(t *Tree, cfg Config) (*builder, error) {
	b := &builder{tree: t, limit: cfg.MaxSize, time: commonTime(t)}
	if b.limit <= 0 {
		b.limit = defaultMaxSize
	}
	b.limit = min(b.limit, maxSize)
	// The number of the root has 16 bits, and the root stands behind the table.
	if most := (math.MaxUint16*slotSize - superOffset - superSize) / deviceSlotSize; len(t.streams) > most {
		return nil, fmt.Errorf("%w: %d layers, the most is %d", ErrTooLarge, len(t.streams), most)
	}
	for i, s := range t.streams {
		if s.Size < 0 || blocksOf(s.Size) >= holeAddress {
			return nil, fmt.Errorf("%w: layer stream %d has %d bytes, the most is 2 TiB", ErrTooLarge, i, s.Size)
		}
	}
	return b, nil
}

// commonTime returns the modification time that more than half of the inodes have,
// if there is one, by the vote of Boyer and Moore; else any of the times.
func commonTime(t *Tree) time.Time {
	var candidate time.Time
	votes := 0
	for _, n := range t.nodes {
		switch {
		case votes == 0:
			candidate, votes = n.ModTime, 1
		case n.ModTime.Equal(candidate):
			votes++
		default:
			votes--
		}
	}
	return candidate
}

// write writes the image front to back as layout has placed everything.
func (b *builder) write() error {
	if err := b.writeHead(); err != nil {
		return err
	}
	for i, n := range b.tree.nodes {
		if err := b.writeInode(n, &b.places[i]); err != nil {
			return err
		}
	}
	for i, n := range b.tree.nodes {
		if err := b.writeContent(n, &b.places[i]); err != nil {
			return err
		}
	}
	return b.padTo(b.blocks << blockBits)
}

// writeHead writes the superblock and the device table.
func (b *builder) writeHead() error {
	streams := b.tree.streams
	super := superblock{
		root: uint16(b.nid(b.tree.Root())), inodes: uint64(b.tree.Len()),
		time: b.time.Unix(), nanos: uint32(b.time.Nanosecond()),
		blocks: uint32(b.blocks), devices: uint16(len(streams)),
		uuid: volumeID(streams),
	}
	head := make([]byte, superOffset, b.headSize())
	head = append(head, super.encode()...)
	for _, s := range streams {
		head = append(head, deviceSlot(s)...)
	}
	return b.put(head)
}

// volumeID derives the identifier of the volume from the chain of layers, in the
// form that RFC 9562 leaves to implementations.
func volumeID(streams []Stream) [16]byte {
	digests := make([]byte, 0, len(streams)*len(block.Digest{}))
	for _, s := range streams {
		digests = append(digests, s.DiffID[:]...)
	}
	sum := block.Sum(digests)
	id := [16]byte(sum[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return id
}

// writeInode writes an inode with its extended attributes and what stands inline.
func (b *builder) writeInode(n *Node, p *placement) error {
	if err := b.padTo(p.inode); err != nil {
		return err
	}
	ino := inode{node: n, compact: p.compact, xattrs: int(p.xattrs), size: n.Size}
	var c chunks
	switch {
	case n.IsDir() || n.Target != "":
		ino.size, ino.content = p.size, uint32(p.data)
		if p.inline {
			ino.layout = layoutInline
		}
	case n.Size > 0:
		var err error
		if c, err = b.chunksOf(n, p.data); err != nil {
			return fmt.Errorf("mapping %s: %w", b.name(n), err)
		}
		ino.layout, ino.content = layoutChunk, chunkIndexes|uint32(c.bits)
	case n.Type == index.TypeChar || n.Type == index.TypeBlock:
		ino.content = deviceNumber(n.Major, n.Minor)
	}
	b.buf = appendXattrs(ino.append(b.buf[:0]), n.Xattrs)
	if tail := b.tail(p); tail > 0 {
		body := len(b.buf)
		b.buf = b.appendContent(b.buf, n)
		b.buf = append(b.buf[:body], b.buf[len(b.buf)-int(tail):]...)
	}
	if err := b.put(b.buf); err != nil {
		return err
	}
	return b.writeIndexes(&c, p)
}

// writeIndexes writes the chunk indexes of a file, not all at once.
func (b *builder) writeIndexes(c *chunks, p *placement) error {
	if c.count == 0 {
		return nil
	}
	if err := b.padTo(p.indexesAt()); err != nil {
		return err
	}
	const batch = 1 << 13
	for from := int64(0); from < c.count; from += batch {
		b.buf = c.appendIndexes(b.buf[:0], from, min(from+batch, c.count))
		if err := b.put(b.buf); err != nil {
			return err
		}
	}
	return nil
}

// appendContent appends the content of a directory or a symbolic link to buf.
func (b *builder) appendContent(buf []byte, n *Node) []byte {
	if n.IsDir() {
		return appendDirectory(buf, n, b.nid)
	}
	return append(buf, n.Target...)
}

// writeContent writes the blocks of content that a node has in the image.
func (b *builder) writeContent(n *Node, p *placement) error {
	switch {
	case len(n.Literals) > 0:
		b.buf = appendLiterals(b.buf[:0], n.Literals)
	case p.size > b.tail(p):
		b.buf = b.appendContent(b.buf[:0], n)
		b.buf = b.buf[:p.size-b.tail(p)]
	default:
		return nil
	}
	if err := b.padTo(p.data << blockBits); err != nil {
		return err
	}
	return b.put(b.buf)
}

func (b *builder) put(data []byte) error {
	n, err := b.w.Write(data)
	b.pos += int64(n)
	return err
}

// padTo writes zeros up to byte pos. Gaps are no longer than a block and a page.
func (b *builder) padTo(pos int64) error {
	if pos < b.pos || pos-b.pos > int64(len(b.zeros)) {
		return fmt.Errorf("at byte %d of %d, which is not where the layout has it", b.pos, pos)
	}
	return b.put(b.zeros[:pos-b.pos])
}
