package cache

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// freshFor is how long the page cache of what was written is kept: a start that reads it does so by then.
	// What a mount has read is in the page cache of the mount, and the file of a complete layer is read
	// past the page cache.
	freshFor = 30 * time.Second
	// freshRun is over which time blocks beside each other count as written together.
	freshRun = 2 * time.Second
	// maxFresh bounds the runs that are remembered. The page cache of others is left to the kernel.
	maxFresh = 8 << 10
)

// fresh remembers what was written lately. The zero value is empty.
type fresh struct {
	mu   sync.Mutex
	runs []freshBlocks // in the order in which they began
}

// freshBlocks are blocks beside each other that were written together.
type freshBlocks struct {
	layer *layer
	span
	at time.Time
}

// add notes that block i of a layer was written.
func (f *fresh) add(l *layer, i uint32, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// Several requests write at a time: the run is one of the last.
	for n := len(f.runs) - 1; n >= max(0, len(f.runs)-2*block.ExtentBlocks); n-- {
		if r := &f.runs[n]; r.layer == l && r.end == i && now.Sub(r.at) < freshRun {
			r.end++
			return
		}
	}
	if len(f.runs) < maxFresh {
		f.runs = append(f.runs, freshBlocks{layer: l, span: span{i, i + 1}, at: now})
	}
}

// old removes and returns what was written before a moment.
func (f *fresh) old(before time.Time) []freshBlocks {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for n < len(f.runs) && f.runs[n].at.Before(before) {
		n++
	}
	old := f.runs[:n:n]
	f.runs = append([]freshBlocks(nil), f.runs[n:]...)
	return old
}

// releaseOld gives the page cache of what was written a while ago back to the system. It has been
// flushed since, and pages that are dirty again stay.
func (d *Disk) releaseOld(now time.Time) {
	for _, r := range d.fresh.old(now.Add(-freshFor)) {
		//nolint:errcheck // the layer is gone, or the filesystem keeps its page cache as it likes
		_ = withFD(r.layer.data, func(fd int) error {
			return unix.Fadvise(fd, int64(r.first)*block.Size, int64(r.end-r.first)*block.Size, unix.FADV_DONTNEED)
		})
	}
}
