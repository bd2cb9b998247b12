package stream

import "github.com/brisk-project/brisk/internal/block"

const (
	// nearBytes is how much of an extent has been read when another read of it is near: a read ahead of
	// the kernel is as long.
	nearBytes = 1 << 20
	// localityLeast and localityMost are how many bytes of reads have to be seen, and how many count.
	localityLeast = 8 << 20
	localityMost  = 32 << 20
)

// locality tells reads that lie together from scattered ones: where they lie together, what comes next to
// them is read next. The zero value has seen none.
type locality struct {
	read      map[block.Key]int64 // bytes, by the first block of an extent
	near, far int64               // bytes of late reads
}

// add notes a read of n bytes.
func (l *locality) add(r block.Range, n int) {
	extent := block.Key{Layer: r.Layer, Index: r.First - r.First%block.ExtentBlocks}
	if l.read == nil {
		l.read = make(map[block.Key]int64)
	}
	if l.read[extent] >= nearBytes {
		l.near += int64(n)
	} else {
		l.far += int64(n)
	}
	l.read[extent] += int64(n)
	if l.near+l.far >= localityMost {
		l.near, l.far = l.near/2, l.far/2
	}
}

// together reports whether most of what was read lately lies together.
func (l *locality) together() bool { return l.near+l.far >= localityLeast && l.near > l.far }
