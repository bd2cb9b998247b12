package source

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// PriorityConfig configures [NewPriority]. The zero value has the defaults.
type PriorityConfig struct {
	// Permits is the maximum number of concurrent fetches. Default 24; the prefetch limits its
	// bytes in flight itself. A quarter of the permits is reserved for reads and
	// [block.ClassHead], so that they get one soon.
	Permits int
	// FillPermits is the maximum number of concurrent fetches of [block.ClassFill]. Default 4.
	FillPermits int
	// MaxFillPause is the maximum pause of a fill after each block that it delivers while
	// reads run. Default 500 ms.
	MaxFillPause time.Duration
}

// pauseStep is how often a fill that pauses looks whether a read waits for it now.
const pauseStep = 5 * time.Millisecond

// Priority is a source that bounds how many fetches of the source below run at
// a time and starts them in the order of their class, then of their arrival.
//
// While reads run, fills get what the reads leave of the throughput that has been
// seen, and a quarter of it at least: a program that waits for one round trip after
// the other leaves most of a link to them, one that waits for bandwidth nothing else. They are slowed down by holding up what they deliver, so that the other
// side's sending window closes; not so a fill that a read waits for, in a
// [SingleFlight] above. While no read runs they are not held up at all.
type Priority struct {
	src block.Source
	cfg PriorityConfig

	mu      sync.Mutex
	running map[block.Class]int
	waiting []*ticket     // most urgent first
	quiet   chan struct{} // closed when no read runs or waits any more; nil while none does
	meter   meter
	due     time.Time // when the fills may deliver the next block while reads run
}

// ticket is a place in the queue for a permit.
type ticket struct {
	class   block.Class
	granted chan struct{} // closed when the permit is granted
}

// NewPriority returns a Priority in front of src.
func NewPriority(src block.Source, cfg PriorityConfig) *Priority {
	if cfg.Permits <= 0 {
		cfg.Permits = 24
	}
	if cfg.FillPermits <= 0 {
		cfg.FillPermits = 4
	}
	if cfg.MaxFillPause <= 0 {
		cfg.MaxFillPause = 500 * time.Millisecond
	}
	return &Priority{src: src, cfg: cfg, running: make(map[block.Class]int)}
}

// Fetch implements [block.Source].
func (p *Priority) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Count == 0 {
		return nil
	}
	if err := p.acquire(ctx, req); err != nil {
		return err
	}
	defer p.release(req.Class)
	return p.src.Fetch(ctx, req, func(k block.Key, data []byte) error {
		if err := sink(k, data); err != nil {
			return err
		}
		p.pace(ctx, req.Class, len(data))
		return nil
	})
}

// WaitIdle waits until no read runs or waits. It returns the cause of the context
// when that ends first. Background work calls it before each step.
func (p *Priority) WaitIdle(ctx context.Context) error {
	for {
		p.mu.Lock()
		quiet := p.quiet
		p.mu.Unlock()
		if quiet == nil {
			return nil
		}
		select {
		case <-quiet:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pace counts what was delivered, and holds up a fill that has delivered more than its
// share.
func (p *Priority) pace(ctx context.Context, class block.Class, n int) {
	now := time.Now()
	p.mu.Lock()
	p.meter.add(now, n, class < block.ClassFill)
	quiet, rest := p.quiet, time.Duration(0)
	if share := p.meter.share; class >= block.ClassFill && quiet != nil && share > 0 {
		// What a fill was too slow to take it may catch up with, within limits.
		if earliest := now.Add(-meterWindow); p.due.Before(earliest) {
			p.due = earliest
		}
		p.due = p.due.Add(time.Duration(float64(n) / share * float64(time.Second)))
		rest = min(p.due.Sub(now), p.cfg.MaxFillPause)
	}
	p.mu.Unlock()
	if rest > 0 {
		pause(ctx, class, quiet, rest)
	}
}

// pause waits until the rest is over, no read runs, or one waits for what is fetched
// with the context.
func pause(ctx context.Context, class block.Class, quiet <-chan struct{}, rest time.Duration) {
	end := time.NewTimer(rest)
	defer end.Stop()
	look := time.NewTicker(pauseStep)
	defer look.Stop()
	for urgent(ctx, class) != block.ClassRead {
		select {
		case <-look.C:
			continue
		case <-quiet:
		case <-end.C:
		case <-ctx.Done():
		}
		return
	}
}

func (p *Priority) acquire(ctx context.Context, req block.Request) error {
	if ctx.Err() != nil {
		return p.wrap(ctx, req)
	}
	t := &ticket{class: req.Class, granted: make(chan struct{})}
	p.mu.Lock()
	i, _ := slices.BinarySearchFunc(p.waiting, t.class, func(other *ticket, c block.Class) int {
		if other.class <= c {
			return -1
		}
		return 1
	})
	p.waiting = slices.Insert(p.waiting, i, t)
	p.scheduleLocked()
	p.mu.Unlock()
	select {
	case <-t.granted:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-t.granted: // at the same moment
		p.running[req.Class]--
	default:
		p.waiting = slices.DeleteFunc(p.waiting, func(other *ticket) bool { return other == t })
	}
	p.scheduleLocked()
	return p.wrap(ctx, req)
}

func (p *Priority) wrap(ctx context.Context, req block.Request) error {
	return &block.Error{Source: "queue", Op: "waiting for", Range: req.Range, Err: context.Cause(ctx)}
}

func (p *Priority) release(class block.Class) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[class]--
	p.scheduleLocked()
}

// scheduleLocked grants permits to those first in the queue and keeps quiet.
func (p *Priority) scheduleLocked() {
	for len(p.waiting) > 0 && p.mayRunLocked(p.waiting[0].class) {
		t := p.waiting[0]
		p.waiting = slices.Delete(p.waiting, 0, 1)
		p.running[t.class]++
		close(t.granted)
	}
	reads := p.running[block.ClassRead] > 0 || len(p.waiting) > 0 && p.waiting[0].class == block.ClassRead
	switch {
	case reads && p.quiet == nil:
		p.quiet = make(chan struct{})
	case !reads && p.quiet != nil:
		close(p.quiet)
		p.quiet = nil
	}
}

// mayRunLocked reports whether a request of the class, first in the queue, may
// start now.
func (p *Priority) mayRunLocked(class block.Class) bool {
	all := 0
	for _, n := range p.running {
		all += n
	}
	switch {
	case all >= p.cfg.Permits:
		return false
	case class <= block.ClassHead:
		return true
	case class >= block.ClassFill && p.running[class] >= p.cfg.FillPermits:
		return false
	default:
		return p.running[block.ClassTail]+p.running[block.ClassFill] < max(1, p.cfg.Permits-max(1, p.cfg.Permits/4))
	}
}
