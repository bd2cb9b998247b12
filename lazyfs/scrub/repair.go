package scrub

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

const (
	// fetchTimeout is how long the fetch of one block may take.
	fetchTimeout = time.Minute
	// firstRetry is how long the second attempt to mend a block waits. Each next one waits
	// twice as long, lastRetry at most.
	firstRetry = 15 * time.Second
	lastRetry  = time.Hour
	// memoryOfBad is how long a wrong block speaks against the disk, and badLimit how many
	// different ones make it suspect.
	memoryOfBad = 30 * 24 * time.Hour
	badLimit    = 32
	// maxBad bounds what is kept of wrong blocks.
	maxBad = 256
	// maxImages bounds the images that are named for one of them.
	maxImages = 8
)

// repair is a block that is to be fetched again.
type repair struct {
	mapped    bool // a mount reads the wrong bytes
	attempts  int
	notBefore time.Time
	err       string // of the last attempt
}

// Report adds a corrupt block to the blocks to repair. It does not wait.
func (s *Scrubber) Report(c cache.CorruptBlock) {
	now := time.Now()
	s.mu.Lock()
	r := s.repairs[c.Key]
	if r == nil {
		r = &repair{}
		s.repairs[c.Key] = r
		delete(s.stale, c.Key)
	}
	r.mapped = r.mapped || c.DirectlyMounted
	suspect := ""
	if c.BitRot {
		suspect = s.state.noteBad(c.Key, now)
	}
	if suspect != "" {
		s.saved = time.Time{} // others read it from the file
	}
	s.dirty = true
	s.mu.Unlock()
	if c.BitRot {
		s.metrics.bad.Inc()
	}
	if suspect != "" {
		s.cfg.Logger.Error("the disk of the cache is suspect", "reason", suspect)
	}
	s.signal()
}

// dueRepair returns a block that is to be mended now. Files that mounts read come first.
func (s *Scrubber) dueRepair(now time.Time) (due block.Key, found bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range s.repairs {
		if !r.notBefore.After(now) && (!found || r.mapped) {
			due, found = k, true
		}
	}
	return due, found
}

// mend fetches a block again and reads it back from the disk.
func (w *worker) mend(ctx context.Context, k block.Key) {
	w.mu.Lock()
	r := w.repairs[k]
	r.attempts++
	r.notBefore = time.Now().Add(min(firstRetry<<min(r.attempts-1, 16), lastRetry))
	mapped, attempts := r.mapped, r.attempts
	w.mu.Unlock()
	if _, ok := w.cfg.Disk.LayerUsage(k.Layer); !ok {
		w.forget(k) // the layer has been removed
		return
	}
	var right []byte
	known, err := w.cfg.Open(ctx, k.Layer)
	if errors.Is(err, block.ErrNotFound) && !mapped {
		w.forget(k) // nothing can read the layer
		return
	}
	if err == nil {
		defer known.Release()
		w.mu.Lock()
		w.state.noteImages(k, known.Images)
		w.mu.Unlock()
		if !mapped && attempts == 1 {
			w.dropPages(ctx, k, nil) // who reads again waits for the right bytes
		}
		right, err = w.fetchAgain(ctx, k)
	}
	log := w.cfg.Logger.With("block", k.String(), "layer", k.Layer.String(), "images", known.Images, "attempts", attempts)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errNotKept) && !mapped:
		w.forget(k)
		log.WarnContext(ctx, "corrupt block is not cached again", "error", err)
	case err != nil:
		w.mu.Lock()
		r.err = err.Error()
		w.mu.Unlock()
		log.WarnContext(ctx, "corrupt block is not repaired yet", "mapped", mapped, "error", err)
	default:
		w.forget(k)
		w.mu.Lock()
		w.state.noteMended(k)
		w.mu.Unlock()
		w.metrics.mended.Inc()
		log.WarnContext(ctx, "corrupt block is repaired", "mapped", mapped)
		if w.dropPages(ctx, k, right) {
			log.WarnContext(ctx, "programs still see the corrupt bytes, in pages that they have mapped")
			w.mu.Lock()
			w.stale[k] = &staleBlock{notBefore: time.Now().Add(firstLook)}
			w.mu.Unlock()
		}
	}
}

var (
	errNotKept = errors.New("there was no room for it")
	errAgain   = errors.New("it was wrong again when it was read back")
)

// fetchAgain returns the bytes that the disk has then, valid until the buffer is used again.
func (w *worker) fetchAgain(ctx context.Context, k block.Key) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req := block.Request{Range: block.Range{Layer: k.Layer, First: k.Index, Count: 1}, Class: block.ClassFill}
	err := w.cfg.Source.Fetch(ctx, req, func(got block.Key, data []byte) error {
		if got != k {
			return nil
		}
		// The source may have it from memory, and then not have put it on disk.
		return w.cfg.Disk.Put(ctx, k, data)
	})
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return nil, fmt.Errorf("%w: %w", errNotKept, err)
	case err != nil:
		return nil, fmt.Errorf("fetching it again: %w", err)
	}
	switch verdict, data, err := w.cfg.Disk.Check(k, w.buf); {
	case err != nil:
		return nil, err
	case verdict == cache.BlockValid:
		return data, nil
	case verdict == cache.BlockCorrupt:
		return nil, errAgain
	default:
		return nil, errNotKept
	}
}

func (s *Scrubber) forget(k block.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.repairs, k)
	s.dirty = true
}
