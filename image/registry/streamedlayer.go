package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// maxStreams is how many layers are streamed at a time: about what container runtimes do.
	maxStreams = 4
	// maxPasses is how many times a layer is streamed at a time: once, and once more for
	// blocks that have gone by and could not be kept.
	maxPasses = 2
	// behind is how many blocks a follower may be behind before the pass waits for it: as
	// many as one request of [source.SingleFlight] is for.
	behind = 64
	// movedWithin is the time in which a pass has to bring a block to count as moving.
	movedWithin = 20 * time.Second
	// maxBroken is how many passes of a layer in a row may break off before what they bring
	// does not count as progress any more.
	maxBroken = 4
)

var (
	// errUnwanted ends a pass that nobody waits for.
	errUnwanted = errors.New("nobody waits for the layer")
	// errRemoved ends the passes of a layer that was removed.
	errRemoved = errors.New("the layer was removed")
	// errClosed ends all passes.
	errClosed = errors.New("the source was closed")
)

// streamed is a layer that is being streamed.
type streamed struct {
	passes []*pass
	broken int // passes in a row that broke off
}

// pass is one reading of a layer from its start to its end. It belongs to no fetch: fetches
// follow it and get its blocks until they have theirs.
type pass struct {
	loc    *location
	class  block.Class
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when it has ended, with err
	err    error

	mu        sync.Mutex
	next      uint32    // the block that comes next
	moved     time.Time // when the last one came, zero before the first
	ending    bool      // takes no followers any more
	followers map[*follower]struct{}
}

// follower is a fetch that waits for blocks of a pass.
type follower struct {
	want   block.Range
	blocks chan streamedBlock
	left   chan struct{} // closed when the follower waits no more
}

type streamedBlock struct {
	index uint32
	data  []byte
}

// fetchStreamed delivers what is missing from the cache, or from a pass.
func (s *Source) fetchStreamed(ctx context.Context, loc *location, class block.Class, d *delivery) error {
	if s.cfg.RangesOnly {
		return fmt.Errorf("layer %s: %w", loc.layer.BlobDigest().Short(), ErrNoRanges)
	}
	missed := false // the cache was asked after a look at the passes
	for {
		if err := s.fromCache(ctx, d); err != nil || d.complete() {
			return err
		}
		// A pass may have gone by, or ended, since the cache was asked.
		p, f, others := s.join(ctx, loc, class, d.missing(), missed)
		if p == nil && !missed {
			missed = true
			continue
		}
		if p == nil {
			if err := awaitAny(ctx, others); err != nil {
				return err
			}
			continue
		}
		missed = false
		err := p.receive(ctx, f, d)
		if s.cfg.Cache == nil {
			p.endUnwanted()
		}
		if err != nil && !errors.Is(err, errUnwanted) {
			return err
		}
	}
}

// fromCache delivers the blocks that the cache has.
func (s *Source) fromCache(ctx context.Context, d *delivery) error {
	if s.cfg.Cache == nil {
		return nil
	}
	for i := range d.want.Count {
		k := d.want.Key(i)
		if d.has(k.Index) {
			continue
		}
		err := s.cfg.Cache.Fetch(ctx, block.Request{Range: block.Range{Layer: k.Layer, First: k.Index, Count: 1}},
			func(k block.Key, data []byte) error { return d.block(k.Index, data) })
		if err != nil && (d.sinkErr() != nil || ctx.Err() != nil) {
			return err
		}
	}
	return nil
}

// join follows the pass that comes to the range next. If there is none it begins one, if begin
// is set, or else returns those there are, which have gone by.
func (s *Source) join(ctx context.Context, loc *location, class block.Class, want block.Range, begin bool) (*pass, *follower, []*pass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	layer := s.streamed[want.Layer]
	if layer == nil {
		layer = &streamed{}
	}
	for _, p := range slices.Backward(layer.passes) {
		if f, ok := p.follow(want); ok {
			return p, f, nil
		}
	}
	if !begin || len(layer.passes) >= maxPasses {
		return nil, nil, slices.Clone(layer.passes)
	}
	// What is read for one is there for all, whoever asked first.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	p := &pass{loc: loc, class: class, cancel: cancel, done: make(chan struct{}), followers: make(map[*follower]struct{})}
	f, _ := p.follow(want)
	if s.closed {
		p.err = fmt.Errorf("%w: %w", block.ErrUnavailable, errClosed)
		cancel(errClosed)
		close(p.done)
		return p, f, nil
	}
	layer.passes = append(layer.passes, p)
	s.streamed[want.Layer] = layer
	s.running.Go(func() {
		defer cancel(nil)
		s.end(p, want.Layer, s.run(ctx, p))
	})
	return p, f, nil
}

// end takes a pass off the list.
func (s *Source) end(p *pass, id block.Digest, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	layer := s.streamed[id]
	layer.passes = slices.DeleteFunc(layer.passes, func(other *pass) bool { return other == p })
	switch {
	case err == nil:
		layer.broken = 0
	case !errors.Is(err, errUnwanted):
		layer.broken++
	}
	if len(layer.passes) == 0 && (err == nil || len(s.layers[id]) == 0) {
		delete(s.streamed, id)
	}
	p.err = err
	close(p.done)
}

// endStreamsLocked ends the passes of a layer.
func (s *Source) endStreamsLocked(id block.Digest, why error) {
	layer := s.streamed[id]
	if layer == nil {
		return
	}
	for _, p := range layer.passes {
		p.cancel(why)
	}
	if len(layer.passes) == 0 {
		delete(s.streamed, id)
	}
}

// Close ends all streams, and returns when what was fetched of indexes is kept. What is fetched
// afterwards is not streamed, nor kept.
func (s *Source) Close() {
	s.mu.Lock()
	s.closed = true
	for id := range s.streamed {
		s.endStreamsLocked(id, errClosed)
	}
	s.mu.Unlock()
	s.running.Wait()
	s.windows.close()
}

// Streaming reports whether a layer is being streamed and gets on, so that whoever waits for a
// block of it will have it in time. A layer that is next in turn counts as long as others get on.
func (s *Source) Streaming(id block.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	layer := s.streamed[id]
	if layer == nil || layer.broken >= maxBroken {
		return false
	}
	queued := false
	for _, p := range layer.passes {
		moves, waits := p.moves()
		if moves {
			return true
		}
		queued = queued || waits
	}
	if !queued {
		return false
	}
	for _, other := range s.streamed {
		for _, p := range other.passes {
			if moves, _ := p.moves(); moves {
				return true
			}
		}
	}
	return false
}

// Unranged reports whether a layer is streamed for want of ranges.
func (s *Source) Unranged(id block.Digest) bool {
	locations := s.locations(id)
	return len(locations) > 0 && !slices.ContainsFunc(locations, func(l *location) bool { return !l.unranged(-1, time.Now()) })
}

// run reads a layer to its end, or until nobody wants it any more.
func (s *Source) run(ctx context.Context, p *pass) (err error) {
	if err := s.streams.acquire(ctx, p.class); err != nil {
		return err
	}
	defer s.streams.release()
	layer := p.loc.layer
	s.metrics.request(p.class)
	defer func() { s.metrics.finished(err) }()
	blob, err := s.client.openWhole(ctx, p.loc.repo, layer.BlobDigest(), layer.BlobSize())
	if err != nil {
		return ended(ctx, err)
	}
	blob.counter = func(n int) { s.metrics.received(p.class, n) }
	defer func() {
		if closeErr := blob.Close(); closeErr != nil {
			s.client.log.DebugContext(ctx, "closing a blob", "error", closeErr)
		}
	}()
	if err := s.runBlob(ctx, p, blob); err != nil {
		return ended(ctx, err)
	}
	return nil
}

// ended returns why a pass ended early.
func ended(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	switch {
	case cause == nil:
		return err
	case errors.Is(cause, errUnwanted):
		return cause
	default:
		return fmt.Errorf("%w: %w", block.ErrUnavailable, cause)
	}
}

// runBlob decodes a blob and passes on its blocks.
func (s *Source) runBlob(ctx context.Context, p *pass, blob *blobReader) error {
	layer := p.loc.layer
	first, err := layer.Frame(0)
	if err != nil {
		return err
	}
	if err := blob.skip(first.BlobOffset); err != nil {
		return err
	}
	window, err := s.windows.of(ctx, p.loc, 0)
	if err != nil {
		return err
	}
	decoded, err := layer.DecodeFrom(window, 0, layer.FrameCount(), blob)
	if err != nil {
		return blob.decodeError(err)
	}
	var refused error // by the cache, or for the end of ctx
	err = s.chunks(decoded, piece{end: layer.StreamSize()}, func(at int64, data []byte) error {
		refused = s.passOn(ctx, p, block.Key{Layer: layer.StreamID(), Index: uint32(at / block.Size)}, data)
		return refused
	})
	closeErr := decoded.Close()
	switch {
	case errors.Is(refused, block.ErrCorrupt):
		blob.from.avoid()
		return refused
	case refused != nil:
		return refused
	case err != nil:
		return blob.decodeError(err)
	case closeErr != nil:
		return blob.decodeError(closeErr)
	default:
		return nil
	}
}

// passOn gives a block to the cache and to the followers.
func (s *Source) passOn(ctx context.Context, p *pass, k block.Key, data []byte) error {
	if s.cfg.Cache != nil {
		err := s.cfg.Cache.Put(ctx, k, data)
		if errors.Is(err, block.ErrCorrupt) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			s.client.log.DebugContext(ctx, "keeping a block of a stream", "block", k.String(), "error", err)
		}
	}
	taken, err := p.offer(ctx, k.Index, data)
	if taken == 0 && s.cfg.Streamed != nil {
		s.cfg.Streamed(k, len(data))
	}
	return err
}
