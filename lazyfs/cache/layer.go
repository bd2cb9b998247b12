package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
)

// layer is what a Disk knows of one layer stream.
//
// Lock order: recordMu, then Disk.mu, then mu. recordMu is held while the record is
// written, which is what it is for; mu never while anything is read or written.
type layer struct {
	id    block.Digest
	size  int64
	count uint32 // of blocks
	dir   string
	data  *os.File

	// cleared counts how often presence bits have been cleared. It changes after
	// the bits and before the data does, so a reader that finds it unchanged after
	// reading has read the data of the bits it saw.
	cleared atomic.Uint64
	// used is, for each extent, the tick of its last use.
	used []atomic.Uint64

	mu      sync.RWMutex
	present bitset                   // blocks that may be read
	trusted bitset                   // those of them that local reads need not verify
	checked bitset                   // those of them hashed at least once by this process
	proven  bitset                   // those of them read back from the disk and hashed since they were written
	pinned  bitset                   // blocks never to be evicted, nil for none
	busy    map[uint32]chan struct{} // blocks being written or evicted; closed when done
	pins    int                      // how many use the data file directly
	stale   bool                     // pinned by a process that died
	direct  int                      // how many descriptors of ours read the file past the page cache
	recheck bool                     // whether a stale pin was kept only because of one of them
	gone    bool                     // the layer has been removed

	recordMu sync.Mutex
	durable  record // what the record on disk may say; nothing if there is none
	unsure   bool   // writing the record failed half-way: it may say less
}

func newLayer(dir string, id block.Digest, size int64, data *os.File) *layer {
	count := block.Count(size)
	return &layer{
		id: id, size: size, count: count, dir: dir, data: data,
		used:    make([]atomic.Uint64, (uint64(count)+block.ExtentBlocks-1)/block.ExtentBlocks),
		present: newBitset(count),
		trusted: newBitset(count),
		checked: newBitset(count),
		proven:  newBitset(count),
		busy:    make(map[uint32]chan struct{}),
		durable: record{layer: id, size: size, present: newBitset(count), trusted: newBitset(count)},
	}
}

func (l *layer) dataPath() string   { return filepath.Join(l.dir, "data") }
func (l *layer) recordPath() string { return filepath.Join(l.dir, "presence") }
func (l *layer) pinPath() string    { return filepath.Join(l.dir, "pinned") }

func (l *layer) length(i uint32) int { return block.Length(l.size, i) }

// state reports whether block i may be read, whether local reads need not verify it, and
// whether this process has hashed it.
func (l *layer) state(i uint32) (present, trusted, checked bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.present.has(i), l.trusted.has(i), l.checked.has(i)
}

// holds reports whether the blocks first to last may all be read, and whether none
// of them needs verification.
func (l *layer) holds(first, last uint32) (present, trusted bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.present.all(first, last), l.trusted.all(first, last)
}

// complete reports whether all blocks are there and verified.
func (l *layer) completeLocked() bool {
	return !l.gone && (l.count == 0 || l.trusted.all(0, l.count-1))
}

var errRemoved = errors.New("layer has been removed from the cache")

// claim takes block i for writing. It reports false if the block is there already.
// What is claimed has to be given back with publish or abandon.
func (l *layer) claim(ctx context.Context, i uint32) (bool, error) {
	for {
		l.mu.Lock()
		busy := l.busy[i]
		switch {
		case l.gone:
			l.mu.Unlock()
			return false, errRemoved
		case busy != nil:
		case l.present.has(i):
			l.mu.Unlock()
			return false, nil
		default:
			l.busy[i] = make(chan struct{})
			l.mu.Unlock()
			return true, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// publish makes the claimed block i readable and reports whether that completes the
// layer. It fails if the layer has been removed.
func (l *layer) publish(i uint32) (complete bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.giveBackLocked(i)
	if l.gone {
		return false, errRemoved
	}
	l.present.set(i)
	l.trusted.set(i)
	l.checked.set(i)
	return l.trusted.count() == l.count, nil
}

// abandon gives up the claim of block i.
func (l *layer) abandon(i uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.giveBackLocked(i)
}

func (l *layer) giveBackLocked(i uint32) {
	close(l.busy[i])
	delete(l.busy, i)
}

// trust notes that block i was verified, provided that no bit has been cleared
// since cleared was read.
func (l *layer) trust(i uint32, cleared uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cleared.Load() == cleared && l.present.has(i) {
		l.trusted.set(i)
		l.checked.set(i)
	}
}

// claimPresent clears and claims those of the blocks for which may returns true, and returns
// them. Blocks that are absent or busy are left alone.
func (l *layer) claimPresent(blocks []span, may func(i uint32) bool) []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var claimed []uint32
	for _, s := range blocks {
		for i := s.first; i < s.end; i++ {
			if l.present.has(i) && l.busy[i] == nil && may(i) {
				l.present.clear(i)
				l.trusted.clear(i)
				l.checked.clear(i)
				l.proven.clear(i)
				l.busy[i] = make(chan struct{})
				claimed = append(claimed, i)
			}
		}
	}
	if len(claimed) > 0 {
		l.cleared.Add(1)
	}
	return claimed
}

// unclaim makes claimed blocks readable again.
func (l *layer) unclaim(claimed []uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range claimed {
		l.present.set(i)
		l.giveBackLocked(i)
	}
}

// evictableLocked reports whether block i may be evicted.
func (l *layer) evictableLocked(i uint32) bool {
	return l.pins == 0 && !l.stale && (l.pinned == nil || !l.pinned.has(i))
}

// bytes returns the length of all blocks that may be read.
func (l *layer) bytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.bytesLocked()
}

func (l *layer) bytesLocked() int64 {
	n := int64(l.present.count()) * block.Size
	if l.count > 0 && l.present.has(l.count-1) {
		n -= block.Size - int64(l.length(l.count-1))
	}
	return n
}

// commit makes the blocks that are readable now survive a restart.
func (l *layer) commit(hook func(point string)) error {
	l.recordMu.Lock()
	defer l.recordMu.Unlock()
	l.mu.RLock()
	present, trusted, gone := l.present.clone(), l.trusted.clone(), l.gone
	l.mu.RUnlock()
	if gone || !l.unsure && present.equal(l.durable.present) && trusted.equal(l.durable.trusted) {
		return nil
	}
	if err := flush(l.data); err != nil {
		return fmt.Errorf("flushing %s: %w", l.dataPath(), err)
	}
	hook("flushed")
	return l.recordLocked(present, trusted)
}

// eraseRecord removes blocks from the record, so that their data can be deleted.
func (l *layer) eraseRecord(claimed []uint32) error {
	l.recordMu.Lock()
	defer l.recordMu.Unlock()
	l.mu.RLock()
	gone := l.gone
	l.mu.RUnlock()
	if gone {
		return nil // the directory may be that of a layer cached anew
	}
	present, trusted := l.durable.present.clone(), l.durable.trusted.clone()
	for _, i := range claimed {
		present.clear(i)
		trusted.clear(i)
	}
	if present.equal(l.durable.present) {
		return nil
	}
	if err := l.recordLocked(present, trusted); err == nil {
		return nil
	}
	// On a full disk there may be no room for another record. No record at all
	// promises less still, and the next commit writes one again.
	if err := errors.Join(removeFile(l.recordPath()), syncDir(l.dir)); err != nil {
		return fmt.Errorf("removing presence record: %w", err)
	}
	l.durable.present, l.durable.trusted, l.unsure = newBitset(l.count), newBitset(l.count), false
	return nil
}

// recordLocked replaces the record. It needs recordMu.
func (l *layer) recordLocked(present, trusted bitset) error {
	next := record{layer: l.id, size: l.size, present: present, trusted: trusted.and(present)}
	if err := statefile.WriteDurable(l.recordPath(), next.encode()); err != nil {
		l.durable.present = l.durable.present.or(present)
		l.unsure = true
		return fmt.Errorf("writing presence record %s: %w", l.recordPath(), err)
	}
	l.durable.present, l.durable.trusted, l.unsure = next.present, next.trusted, false
	return nil
}
