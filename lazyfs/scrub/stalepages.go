package scrub

import (
	"context"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

const (
	// firstLook is how long after a repair it is looked again whether programs see the right
	// bytes. Each next look waits twice as long, lastLook at most.
	firstLook = time.Second
	lastLook  = 15 * time.Minute
)

// staleBlock is a block that is right on disk, while programs see other bytes in pages that
// they have mapped: the kernel drops them only once no program maps them any more.
type staleBlock struct {
	looks     int
	notBefore time.Time
}

// dueStale returns a block whose pages are to be looked at now.
func (s *Scrubber) dueStale(now time.Time) (block.Key, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, b := range s.stale {
		if !b.notBefore.After(now) {
			return k, true
		}
	}
	return block.Key{}, false
}

// dropPages reports whether programs still see bytes of a block other than the right ones.
func (w *worker) dropPages(ctx context.Context, k block.Key, right []byte) (stale bool) {
	return w.cfg.DropPages != nil && w.cfg.DropPages(ctx, k, right)
}

// look drops the pages of a stale block once more. What is not in the cache, or not right
// there, is no longer its matter.
func (w *worker) look(ctx context.Context, k block.Key) {
	stale := false
	if known, err := w.cfg.Open(ctx, k.Layer); err == nil {
		verdict, right, err := w.cfg.Disk.Check(k, w.buf)
		stale = err == nil && verdict == cache.BlockValid && w.dropPages(ctx, k, right)
		known.Release()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.stale[k]
	switch {
	case b == nil || ctx.Err() != nil: // it was found corrupt again
	case stale:
		b.looks++
		b.notBefore = time.Now().Add(min(firstLook<<min(b.looks, 16), lastLook))
	default:
		delete(w.stale, k)
		w.dirty = true
	}
}
