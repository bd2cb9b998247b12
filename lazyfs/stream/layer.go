package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// errIncomplete says that a source claimed success without having delivered.
var errIncomplete = errors.New("source delivered fewer bytes than the range holds")

// Layer is one layer stream. Create it with [Reader.Open].
type Layer struct {
	reader *Reader
	id     block.Digest
	size   int64
	pages  Pages // nil if there are none

	mu          sync.Mutex
	seq         sequence  // guarded by mu
	recentReads recentSet // extents where reads have waited, guarded by mu
	failed      failures  // guarded by mu
}

// ID returns the stream ID of the layer.
func (l *Layer) ID() block.Digest { return l.id }

// Size returns the length of the layer stream in bytes.
func (l *Layer) Size() int64 { return l.size }

// ReadLocal fills p with the bytes from off on if the local cache holds all of
// them, and reports whether it did. The range must lie within the stream. Every read
// begins with it: that is when [Config.OnRead] is told.
func (l *Layer) ReadLocal(p []byte, off int64) bool {
	if !l.within(p, off) {
		return false
	}
	if l.reader.cfg.OnRead != nil && len(p) > 0 {
		l.reader.cfg.OnRead(l.id, off, int64(len(p)))
	}
	start := time.Now()
	cached := l.readLocal(p, off)
	if !cached && (l.pages == nil || !l.readPieces(p, off)) {
		l.advance(off, len(p))
		return false
	}
	l.done(ReadResult{Offset: off, Length: int64(len(p)), Duration: time.Since(start), Pages: !cached}, resultLocal)
	expected := l.reader.starts.local(block.Covering(l.id, off, int64(len(p))), len(p))
	if cached && !expected {
		l.advance(off, len(p))
	}
	l.releasePages(off, len(p))
	return true
}

func (l *Layer) readLocal(p []byte, off int64) bool {
	if l.reader.cfg.Local == nil {
		return false
	}
	n, err := l.reader.cfg.Local.ReadAt(l.id, p, off)
	return err == nil && n == len(p)
}

// releasePages gives back the page cache of the cache file: the kernel keeps what it
// was given for the mount, and need not keep it twice.
func (l *Layer) releasePages(off int64, n int) {
	r := l.reader
	if r.pages == nil {
		return
	}
	if err := r.pages.ReleasePages(l.id, off, int64(n)); err != nil {
		r.pagesOnce.Do(func() { r.cfg.Logger.Warn("page cache of the cache file is not released", "error", err) })
	}
}

// Fetch fills p with the bytes from off on, waiting for them until ctx ends or the
// deadline of a read has passed. The range must lie within the stream. On an
// error the content of p is undefined.
func (l *Layer) Fetch(ctx context.Context, p []byte, off int64) error {
	if !l.within(p, off) {
		return fmt.Errorf("reading %d bytes at %d of layer %s, which has %d", len(p), off, l.id.Short(), l.size)
	}
	if len(p) == 0 {
		return nil
	}
	r := l.reader
	timeout := l.begin(off, len(p))
	l.readAround(off, len(p))
	defer r.starts.wait(block.Covering(l.id, off, int64(len(p))), len(p))()
	start := time.Now()
	r.waiting.begin()
	r.metrics.waiting(1)
	ctx, cancel := l.withDeadline(ctx, timeout)
	fetch := l.fetchUntilDone
	if l.pages != nil {
		fetch = l.fetchPieces
	}
	err := fetch(ctx, p, off)
	cancel()
	r.metrics.waiting(-1)
	r.waiting.end()
	if errors.Is(err, ErrDeadline) {
		l.fail(off, len(p))
	}
	if err != nil {
		l.done(ReadResult{Offset: off, Length: int64(len(p)), Duration: time.Since(start), Waited: true, Failed: true, Pages: l.pages != nil}, resultError)
		return fmt.Errorf("reading %d bytes at %d of layer %s: %w", len(p), off, l.id.Short(), err)
	}
	l.done(ReadResult{Offset: off, Length: int64(len(p)), Duration: time.Since(start), Waited: true, Pages: l.pages != nil}, resultFetched)
	return nil
}

// done tells of a read that has ended.
func (l *Layer) done(read ReadResult, result string) {
	bytes := int(read.Length)
	if read.Failed {
		bytes = 0
	}
	l.reader.metrics.read(result, bytes, read.Duration)
	if tell := l.reader.cfg.OnReadDone; tell != nil && read.Length > 0 {
		read.Layer = l.id
		tell(read)
	}
}

// withDeadline returns a context that ends with [ErrDeadline] after the timeout, or as soon after it
// as the layer is not being streamed.
func (l *Layer) withDeadline(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	streaming := l.reader.cfg.Streaming
	if streaming == nil {
		return context.WithTimeoutCause(ctx, timeout, ErrDeadline)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var (
		mu    sync.Mutex // guards timer until it is set
		timer *time.Timer
	)
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(timeout, func() {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() == nil && streaming(l.id) {
			timer.Reset(streamingCheck)
			return
		}
		cancel(ErrDeadline)
	})
	return ctx, func() {
		timer.Stop()
		cancel(nil)
	}
}

// fetchUntilDone repeats fetches that failed for a reason that may pass.
func (l *Layer) fetchUntilDone(ctx context.Context, p []byte, off int64) error {
	pause, corrupt := firstPause, 0
	for {
		err := l.fetchOnce(ctx, p, off)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.Join(context.Cause(ctx), err)
		case errors.Is(err, block.ErrCorrupt) && corrupt == 0:
			corrupt++ // the next attempt may go to another source
		case !errors.Is(err, block.ErrUnavailable):
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(context.Cause(ctx), err)
		case <-timer.C:
		}
		pause = min(2*pause, lastPause)
	}
}

func (l *Layer) fetchOnce(ctx context.Context, p []byte, off int64) error {
	want := block.Covering(l.id, off, int64(len(p)))
	start := time.Now()
	copied := 0
	sink, ended := l.reader.starts.measure(
		func(k block.Key, data []byte) error {
			if !want.Contains(k) {
				return nil
			}
			if len(data) != block.Length(l.size, k.Index) {
				return &block.Error{
					Source: "unknown", Op: "reading", Range: block.Range{Layer: k.Layer, First: k.Index, Count: 1},
					Err: fmt.Errorf("%w: %d bytes instead of %d", block.ErrCorrupt, len(data), block.Length(l.size, k.Index)),
				}
			}
			copied += overlap(p, off, data, k.Offset())
			return nil
		})
	err := l.reader.cfg.Source.Fetch(ctx, block.Request{Range: want, Class: block.ClassRead}, sink)
	ended()
	if err == nil && copied != len(p) {
		err = errIncomplete
	}
	if err == nil {
		l.reader.noteFetch(time.Since(start))
	}
	return err
}

// overlap copies to p, which begins at off, what data, which begins at dataOff, has
// of it, and returns the number of bytes.
func overlap(p []byte, off int64, data []byte, dataOff int64) int {
	if dataOff >= off {
		return copy(p[min(dataOff-off, int64(len(p))):], data)
	}
	return copy(p, data[min(off-dataOff, int64(len(data))):])
}

func (l *Layer) within(p []byte, off int64) bool {
	return off >= 0 && off <= l.size && int64(len(p)) <= l.size-off
}

// advance tells the read-ahead of a read. What it asks for and finds no room in the
// queue is asked for again by a later read. Reads that a trace or a bundle has expected do not
// count: what a start reads after them is known, and comes without it.
func (l *Layer) advance(off int64, n int) {
	limit := uint32(l.reader.cfg.ReadAhead / block.Size)
	if l.reader.cfg.ReadAhead < 0 || n == 0 {
		return
	}
	read := block.Covering(l.id, off, int64(n))
	l.mu.Lock()
	defer l.mu.Unlock()
	run := l.seq.record(read)
	for {
		want, ok := run.next(l.id, block.Count(l.size), limit)
		if !ok {
			return
		}
		select {
		case l.reader.ahead <- want:
			run.ahead = want.End()
		default:
			return
		}
	}
}

// aroundBlocks is how many blocks come with a read of a start that waits, where the link carries them in the
// time that it waits anyway. Files that are read one after the other lie together.
const aroundBlocks = block.ExtentBlocks

// aroundShare is which part of them the link has to carry in a round trip: the time that it needs for all of
// them is measured together with what it takes to decode them.
const aroundShare = 4

// readAround asks for the neighbours of what a read waits for, if they do not come along.
func (l *Layer) readAround(off int64, n int) {
	r := l.reader
	want := block.Covering(l.id, off, int64(n))
	if r.cfg.ReadAhead < 0 || !r.starts.readsAround(l.id, aroundBlocks*block.Size/aroundShare) {
		return
	}
	first := want.First - want.First%aroundBlocks
	end := min(first+aroundBlocks, block.Count(l.size))
	if r.cfg.ExpandToFrames != nil {
		want = r.cfg.ExpandToFrames(want)
	}
	for _, near := range []block.Range{
		{Layer: l.id, First: first, Count: max(first, want.First) - first},
		{Layer: l.id, First: want.End(), Count: max(end, want.End()) - want.End()},
	} {
		if near.Count == 0 || !r.lacks(near) {
			continue
		}
		select {
		case r.ahead <- near:
		default:
		}
	}
}

// begin notes a read that has to wait, for the fill, and returns how long it may.
func (l *Layer) begin(off int64, n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recentReads.add(uint32(off / block.ExtentSize))
	l.recentReads.add(uint32((off + int64(n) - 1) / block.ExtentSize))
	return l.failed.timeout(block.Covering(l.id, off, int64(n)), l.reader.cfg.Timeout)
}

// fail notes that a read was given up.
func (l *Layer) fail(off int64, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed.add(block.Covering(l.id, off, int64(n)))
}

// popRecentRead removes and returns the extent where a read has waited most recently.
func (l *Layer) popRecentRead() (uint32, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recentReads.pop()
}
