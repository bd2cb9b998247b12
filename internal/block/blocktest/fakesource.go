package blocktest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// Source is a [block.Source] that holds every block of a fixture, with faults to
// inject. The methods that inject may be called at any time, also concurrently
// with fetches.
type Source struct {
	fx *Fixture

	mu       sync.Mutex
	flipped  map[block.Key]bool
	dropped  map[block.Key]bool
	failures []error
	delay    time.Duration
	frame    uint32
	hold     chan struct{} // not nil while stalled; closed by the release
	requests []block.Request
	sent     map[block.Key]int
}

// NewSource returns a source that holds every block of fx and has no faults.
func NewSource(fx *Fixture) *Source {
	return &Source{
		fx:      fx,
		flipped: make(map[block.Key]bool),
		dropped: make(map[block.Key]bool),
		frame:   1,
		sent:    make(map[block.Key]int),
	}
}

// Flip makes the source deliver the blocks with one bit wrong.
func (s *Source) Flip(keys ...block.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		s.flipped[k] = true
	}
}

// Repair takes back what Flip did to the blocks.
func (s *Source) Repair(keys ...block.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		delete(s.flipped, k)
	}
}

// Drop makes the source hold none of the blocks any more.
func (s *Source) Drop(keys ...block.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		s.dropped[k] = true
	}
}

// Fail makes the next len(errs) fetches fail, one with each error, before they
// have delivered anything.
func (s *Source) Fail(errs ...error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, errs...)
}

// Delay makes every fetch wait so long before it delivers its first block.
func (s *Source) Delay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// Frame makes every fetch deliver whole frames of n blocks, whatever was asked.
func (s *Source) Frame(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frame = max(n, 1)
}

// Stall makes fetches hang before their next block until release is called or
// their context ends. Release may be called more than once.
func (s *Source) Stall() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	hold := make(chan struct{})
	s.hold = hold
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(hold)
		if s.hold == hold {
			s.hold = nil
		}
	})
}

// Requests returns the requests made so far, in order.
func (s *Source) Requests() []block.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Sent returns how often the block has been delivered.
func (s *Source) Sent(k block.Key) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[k]
}

// Fetch implements [block.Source].
func (s *Source) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Count == 0 {
		return nil
	}
	if err := s.begin(ctx, req); err != nil {
		return s.wrap(req, err)
	}
	size, _ := s.fx.StreamSize(req.Layer)
	end := min(uint64(req.First)+uint64(req.Count), uint64(block.Count(size)))
	// One buffer for all blocks, scribbled over after each: a sink that keeps or
	// expects to keep the data is found out.
	buf := make([]byte, block.Size)
	missing := uint64(req.First)+uint64(req.Count) > end
	for i := s.frameStart(req.First); i < s.frameEnd(end, size); i++ {
		k := block.Key{Layer: req.Layer, Index: uint32(i)}
		held, err := s.deliver(ctx, k, buf, sink)
		if err != nil {
			return err
		}
		if !held && req.Contains(k) {
			missing = true
		}
	}
	if missing {
		return s.wrap(req, block.ErrNotFound)
	}
	return nil
}

func (s *Source) begin(ctx context.Context, req block.Request) error {
	s.mu.Lock()
	s.requests = append(s.requests, req)
	delay := s.delay
	var failure error
	if len(s.failures) > 0 {
		failure, s.failures = s.failures[0], s.failures[1:]
	}
	s.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return failure
}

func (s *Source) frameStart(first uint32) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(first - first%s.frame)
}

func (s *Source) frameEnd(end uint64, size int64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	frame := uint64(s.frame)
	return min((end+frame-1)/frame*frame, uint64(block.Count(size)))
}

// deliver reports whether the source holds the block. Its error is the one Fetch
// returns.
func (s *Source) deliver(ctx context.Context, k block.Key, buf []byte, sink block.Sink) (bool, error) {
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return false, s.wrap(block.Request{Range: block.Range{Layer: k.Layer, First: k.Index, Count: 1}}, context.Cause(ctx))
	}
	s.mu.Lock()
	dropped, flipped := s.dropped[k], s.flipped[k]
	if !dropped {
		s.sent[k]++
	}
	s.mu.Unlock()
	if dropped {
		return false, nil
	}
	data := buf[:copy(buf, s.fx.Content(k))]
	if flipped {
		data[len(data)/2] ^= 0x10
	}
	err := sink(k, data)
	for i := range data {
		data[i] = 0xdb
	}
	return true, err
}

func (s *Source) wrap(req block.Request, err error) error {
	return &block.Error{Source: "fake", Op: "reading", Range: req.Range, Err: fmt.Errorf("test source: %w", err)}
}
