package stream

import (
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// echo is how soon after a failure a read of the same blocks counts as its echo.
	echo = 250 * time.Millisecond
	// maxEchoes is how many echoes in a row are believed to be such: a loop device
	// asks for a megabyte of readahead in pieces of 128 KiB, one after the other.
	maxEchoes = 32
	// near is how many blocks away from the failure an echo may be.
	near = 8
	// maxFailures is how many failures of a layer are remembered.
	maxFailures = 16
	// shortest and longest bound the time an echo is given.
	shortest = 50 * time.Millisecond
	longest  = 500 * time.Millisecond
)

// failures remembers reads that were given up at their deadline. The kernel does not
// take the first error for an answer: it repeats, page by page, what failed as
// readahead, once for each filesystem in the stack. These echoes come at once, and if
// each had the whole deadline again the reader would wait for a multiple of it. So
// they get a small part, enough for a source that is back. The zero value is ready.
type failures struct {
	list []failure
}

type failure struct {
	blocks block.Range
	at     time.Time
	echoes int
}

func (e *failure) near(read block.Range) bool {
	return read.First < e.blocks.End()+near && read.End()+near > e.blocks.First
}

// timeout returns how long a read of the blocks may take, if its reader is to have an
// answer within full, echoes included.
func (f *failures) timeout(read block.Range, full time.Duration) time.Duration {
	for i := range f.list {
		e := &f.list[i]
		if e.near(read) && time.Since(e.at) <= echo && e.echoes < maxEchoes {
			return min(full, max(shortest, min(longest, full/20)))
		}
	}
	return full - full/10
}

// add notes a failure that happened now.
func (f *failures) add(read block.Range) {
	echoes := 0
	kept := f.list[:0]
	for _, e := range f.list {
		if time.Since(e.at) > echo+longest {
			continue
		}
		if e.near(read) {
			echoes = max(echoes, e.echoes+1)
			continue
		}
		kept = append(kept, e)
	}
	if len(kept) == maxFailures {
		kept = kept[1:]
	}
	if echoes > maxEchoes {
		echoes = 0
	}
	f.list = append(kept, failure{blocks: read, at: time.Now(), echoes: echoes})
}
