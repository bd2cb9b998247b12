package erofs

import (
	"encoding/binary"
	"iter"
)

// dirents walks what the encoded directory holds, in the order of the names: its
// children, itself as "." and its parent as "..". Names such as "#x" stand before
// the two.
func dirents(n *Node) iter.Seq2[string, *Node] {
	return func(yield func(string, *Node) bool) {
		dots := []Child{{".", n}, {"..", n.Parent()}}
		for _, child := range n.Children() {
			for len(dots) > 0 && dots[0].Name < child.Name {
				if !yield(dots[0].Name, dots[0].Node) {
					return
				}
				dots = dots[1:]
			}
			if !yield(child.Name, child.Node) {
				return
			}
		}
		for _, dot := range dots {
			if !yield(dot.Name, dot.Node) {
				return
			}
		}
	}
}

// directorySize returns the length in bytes of an encoded directory. A name and
// its entry stand in the same block, so all blocks but the last are padded.
func directorySize(n *Node) int64 {
	full, used := int64(0), int64(0)
	for name := range dirents(n) {
		need := int64(direntSize + len(name))
		if used+need > blockSize {
			full, used = full+blockSize, 0
		}
		used += need
	}
	return full + used
}

// directoryBlock collects the entries of one block of a directory: those of fixed
// size stand in front, the names behind.
type directoryBlock struct {
	entries []byte
	names   []byte
}

func (d *directoryBlock) fits(name string) bool {
	return len(d.entries)+direntSize+len(d.names)+len(name) <= blockSize
}

func (d *directoryBlock) add(name string, nid uint64, t byte) {
	le := binary.LittleEndian
	d.entries = le.AppendUint64(d.entries, nid)
	d.entries = le.AppendUint16(d.entries, uint16(len(d.names)))
	d.entries = append(d.entries, t, 0)
	d.names = append(d.names, name...)
}

// flush appends the block to b and empties it. Where a name starts is only known
// once all entries are there.
func (d *directoryBlock) flush(b []byte) []byte {
	le := binary.LittleEndian
	for e := d.entries; len(e) > 0; e = e[direntSize:] {
		at := e[8:]
		le.PutUint16(at, le.Uint16(at)+uint16(len(d.entries)))
	}
	b = append(append(b, d.entries...), d.names...)
	d.entries, d.names = d.entries[:0], d.names[:0]
	return b
}

// appendDirectory encodes a directory and appends it to b, padded to a block
// between blocks but not behind the last.
func appendDirectory(b []byte, n *Node, nid func(*Node) uint64) []byte {
	var block directoryBlock
	start := len(b)
	for name, node := range dirents(n) {
		if !block.fits(name) {
			b = block.flush(b)
			if tail := (len(b) - start) % blockSize; tail > 0 {
				b = append(b, make([]byte, blockSize-tail)...)
			}
		}
		block.add(name, nid(node), direntType(node.Type))
	}
	return block.flush(b)
}
