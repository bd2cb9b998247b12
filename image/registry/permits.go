package registry

import (
	"context"
	"slices"
	"sync"

	"github.com/brisk-project/brisk/internal/block"
)

// permits bounds the requests in flight. A quarter of the permits is kept for
// reads that a program waits for; the others are given in the order of class and
// arrival.
type permits struct {
	total    int
	reserved int // of total, for block.ClassRead only

	mu      sync.Mutex
	used    int
	waiting []*permitRequest // most urgent first
}

type permitRequest struct {
	class   block.Class
	granted chan struct{}
}

func newPermits(total int) *permits { return &permits{total: total, reserved: total / 4} }

// acquire waits for a permit. It returns the cause of ctx when that ends first.
func (p *permits) acquire(ctx context.Context, class block.Class) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := &permitRequest{class: class, granted: make(chan struct{})}
	p.mu.Lock()
	i := slices.IndexFunc(p.waiting, func(other *permitRequest) bool { return other.class > class })
	if i < 0 {
		i = len(p.waiting)
	}
	p.waiting = slices.Insert(p.waiting, i, r)
	p.grantLocked()
	p.mu.Unlock()
	select {
	case <-r.granted:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, r); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		return context.Cause(ctx)
	}
	// It was granted at the same moment: give it back.
	p.used--
	p.grantLocked()
	return context.Cause(ctx)
}

func (p *permits) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used--
	p.grantLocked()
}

// grantLocked gives what is free to those who wait. The most urgent waits first,
// so the first that cannot have a permit ends it.
func (p *permits) grantLocked() {
	for len(p.waiting) > 0 {
		limit := p.total
		if p.waiting[0].class != block.ClassRead {
			limit -= p.reserved
		}
		if p.used >= limit {
			return
		}
		p.used++
		close(p.waiting[0].granted)
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}
