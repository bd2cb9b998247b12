package stream

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// startQuiet is how long nothing was read when a start seems to be over.
	startQuiet = 2 * time.Second
	// startMost is how long after the first read that waited, or after the mount, a start is over
	// in any case: a program that reads all the time must not keep its image from becoming complete.
	startMost = 30 * time.Second
	// startBytes is how much a start reads at the most. Who reads more reads all of an image.
	startBytes = 256 << 20
	// fillLeast is the least request of the fill, about a frame: less is not to be had.
	fillLeast = 4 * block.Size
	// fillLook is how often a fill that stands back looks whether it may go on.
	fillLook = 50 * time.Millisecond
	// driftReads and driftMost are how many reads of a start are looked at, and how many of them
	// may wait for what its trace does not have.
	driftReads = 64
	driftMost  = driftReads * 3 / 4
)

// activeStart is the start of an image, as far as others have to stand back for it.
type activeStart struct {
	layers  map[block.Digest]struct{}
	trace   map[block.Key]struct{} // nil if none is known, or the start has left it
	fills   bool                   // all of the image is going to be loaded
	loading int                    // calls that load its trace
	began   time.Time              // or when it was mounted
	waited  time.Time              // when a read of it first waited
	last    time.Time              // when a read of it last began or ended
	ended   time.Time              // when the last read of it that waited ended
	reading int                    // reads that wait
	bytes   int64                  // that were read
	// inside and outside count its latest reads: those of blocks of the trace, and those that
	// had to wait for others.
	inside, outside int
	locality        locality
	leave           func() // stops what is loaded of the trace
}

// active reports whether the start goes on.
func (s *activeStart) active(now time.Time) bool {
	return s.loading > 0 || !s.over(now) && (s.reading > 0 || now.Sub(s.last) < startQuiet)
}

// readsAhead reports whether reads wait, or did a moment ago, for what lies together.
func (s *activeStart) readsAhead(now time.Time) bool {
	return s.locality.together() && (s.reading > 0 || now.Sub(s.ended) < 2*fillLook)
}

// over reports whether the start is over for good.
func (s *activeStart) over(now time.Time) bool {
	since := s.began
	if !s.waited.IsZero() {
		since = s.waited
	}
	return s.loading == 0 && (now.Sub(since) >= startMost || s.bytes >= startBytes)
}

// read notes a read. It reports whether the trace has expected it, and whether the start has left its
// trace by now.
func (s *activeStart) read(r block.Range, waits bool) (expected, left bool) {
	if s.trace == nil {
		return false, false
	}
	if _, expected = s.trace[r.Key(0)]; expected {
		s.inside++
	} else if waits {
		s.outside++
	}
	if s.inside+s.outside < driftReads {
		return expected, false
	}
	left = s.outside > driftMost
	s.inside, s.outside = 0, 0
	return expected, left
}

// fillThrottle decides what the fill may fetch while images start: nothing, because whatever takes link or
// processors makes a start longer. Where reads wait for what lies together, however, and no trace says what
// comes next, the fill reads ahead for them: they have nothing else to wait for.
type fillThrottle struct {
	mu      sync.Mutex // guards the fields below
	link    pace
	all     map[*activeStart]struct{}
	filling int // bytes of the fill in flight
	fills   map[*sent]struct{}
	waiting int // reads
}

func newFillThrottle() *fillThrottle {
	return &fillThrottle{all: make(map[*activeStart]struct{}), fills: make(map[*sent]struct{})}
}

// begin adds a start, with the blocks of its trace if that is known. leave is called if the start
// turns out to read other ones.
func (s *fillThrottle) begin(layers []*Layer, trace []block.Range, fills bool, leave func()) *activeStart {
	now := time.Now()
	begun := &activeStart{layers: make(map[block.Digest]struct{}, len(layers)), began: now, last: now, fills: fills, leave: leave}
	for _, l := range layers {
		begun.layers[l.id] = struct{}{}
	}
	for _, r := range trace {
		for i := range r.Count {
			if begun.trace == nil {
				begun.trace = make(map[block.Key]struct{})
			}
			begun.trace[r.Key(i)] = struct{}{}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ofLocked(now, nil) // forgets those that are over
	if len(layers) > 0 {
		s.all[begun] = struct{}{}
		s.standBackLocked(now)
	}
	return begun
}

// ofLocked returns the starts to which a layer belongs, nil for none, and forgets those that are
// over.
func (s *fillThrottle) ofLocked(now time.Time, layer *block.Digest) (of []*activeStart) {
	for begun := range s.all {
		if begun.over(now) {
			delete(s.all, begun)
			continue
		}
		if layer == nil {
			continue
		}
		if _, ok := begun.layers[*layer]; ok {
			of = append(of, begun)
		}
	}
	return of
}

// mounted says that programs can read the image now.
func (s *fillThrottle) mounted(of *activeStart) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of.began, of.last = time.Now(), time.Now()
	s.standBackLocked(time.Now())
}

// standBackLocked gives up what is in flight of the fill if it may have nothing in flight any more.
func (s *fillThrottle) standBackLocked(now time.Time) {
	if s.allowanceLocked(now) == 0 {
		s.yieldLocked()
	}
}

// load says that the trace is being loaded until done is called.
func (s *fillThrottle) load(of *activeStart) (done func()) {
	change := func(by int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		of.loading += by
		of.last = time.Now()
	}
	change(1)
	return func() { change(-1) }
}

// forget makes a start one of which no trace is known.
func (s *fillThrottle) forget(of *activeStart) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of.trace = nil
}

// local notes a read of n bytes that did not have to wait, and reports whether the trace of a start has
// expected it.
func (s *fillThrottle) local(r block.Range, n int) (expected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return false
	}
	now := time.Now()
	for _, begun := range s.ofLocked(now, &r.Layer) {
		begun.last = now
		begun.bytes += int64(n)
		begun.locality.add(r, n)
		known, _ := begun.read(r, false)
		expected = expected || known
	}
	return expected
}

// wait notes a read of n bytes that waits until done is called.
func (s *fillThrottle) wait(r block.Range, n int) (done func()) {
	now := time.Now()
	var left []*activeStart
	s.mu.Lock()
	s.waiting++
	yield := s.yieldSoonLocked()
	of := s.ofLocked(now, &r.Layer)
	for _, begun := range of {
		begun.reading++
		begun.bytes += int64(n)
		begun.locality.add(r, n)
		if begun.last = now; begun.waited.IsZero() {
			begun.waited = now
		}
		if _, leaves := begun.read(r, true); leaves {
			begun.trace = nil
			left = append(left, begun)
		}
	}
	s.mu.Unlock()
	for _, begun := range left {
		begun.leave()
	}
	return func() {
		if yield != nil {
			yield.Stop()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting--
		for _, begun := range of {
			begun.reading--
			begun.last = time.Now()
			begun.ended = begun.last
		}
	}
}

// allowanceLocked returns how many bytes the fill may have in flight.
func (s *fillThrottle) allowanceLocked(now time.Time) int {
	s.ofLocked(now, nil) // forgets those that are over
	least := math.MaxInt
	for begun := range s.all {
		switch {
		case !begun.active(now):
		case begun.trace == nil && begun.readsAhead(now):
			least = min(least, max(flowGain*s.link.product(), fillLeast))
		default:
			return 0
		}
	}
	return least
}

// readsAround reports whether a layer belongs to a start without a trace whose image is filled later, and the link carries n bytes of
// blocks in the time of a round trip, as far as that is known.
func (s *fillThrottle) readsAround(layer block.Digest, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	untraced := func(begun *activeStart) bool { return begun.trace == nil && begun.fills }
	if !slices.ContainsFunc(s.ofLocked(time.Now(), &layer), untraced) {
		return false
	}
	delay, perByte := s.link.delays.early(), s.link.perByte.early()
	return perByte == 0 || delay/perByte >= float64(n)
}

// acquire waits until the fill may send a request, and returns for how many bytes, at most n; zero
// once nothing is needed any more.
func (s *fillThrottle) acquire(ctx context.Context, n int, needed func() bool) (int, error) {
	for {
		if !needed() {
			return 0, ctx.Err()
		}
		s.mu.Lock()
		may := s.allowanceLocked(time.Now())
		if may > 0 && (s.filling == 0 || s.filling+n <= may) {
			n = min(n, may/block.Size*block.Size)
			s.filling += n
			s.mu.Unlock()
			return n, ctx.Err()
		}
		s.mu.Unlock()
		look := time.NewTimer(fillLook)
		select {
		case <-look.C:
		case <-ctx.Done():
			look.Stop()
			return 0, ctx.Err()
		}
	}
}

// release gives back what acquire has returned.
func (s *fillThrottle) release(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filling -= n
}

// measure returns a sink that measures what comes of a request that is sent now, and what
// to call when it has ended.
func (s *fillThrottle) measure(sink block.Sink) (block.Sink, func()) {
	sent := time.Now()
	var first, last time.Time
	bytes := 0
	return func(k block.Key, data []byte) error {
			if last = time.Now(); first.IsZero() {
				first = last
			} else {
				bytes += len(data)
			}
			return sink(k, data)
		}, func() {
			if bytes == 0 {
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.link.add(first.Sub(sent), bytes, last.Sub(first))
		}
}

// pace measures single requests: how long their first block takes, and how fast the others follow.
// That shows what a link carries even if never more than one request is in flight.
type pace struct {
	delays, perByte minMedian
}

func (p *pace) add(delay time.Duration, bytes int, took time.Duration) {
	p.delays.add(delay.Seconds())
	p.perByte.add(took.Seconds() / float64(bytes))
}

// product returns how many bytes of blocks come in the time that the first one takes, 0 if that is
// not known.
func (p *pace) product() int {
	delay, perByte := p.delays.median(), p.perByte.median()
	if delay == 0 || perByte == 0 {
		return 0
	}
	return int(min(delay/perByte, flowMost))
}
