package p2p

import (
	"context"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

const classes = int(block.ClassFill) + 1

// semaphore lets a bounded number of blocks be read and sent at once, the most urgent
// first. Bulk can never take all places: a bulk peer that does not read must not
// stand in the way of a blocked read.
type semaphore struct {
	now func() time.Time

	mu      sync.Mutex // guards everything below
	free    int
	bulk    int // places that bulk may still take
	waiting [classes][]*waiter
	perItem time.Duration // moving average of the time a place is held
	places  int
}

type waiter struct {
	granted chan struct{} // closed when it has a place
	given   bool
}

// newSemaphore returns a semaphore of the given number of places, at least 2.
func newSemaphore(places int, now func() time.Time) *semaphore {
	places = max(places, 2)
	return &semaphore{now: now, free: places, bulk: places / 2, places: places}
}

func urgent(c block.Class) bool { return c <= block.ClassHead }

// enter waits for a place. Whoever got one calls leave exactly once.
func (g *semaphore) enter(ctx context.Context, c block.Class) (leave func(), err error) {
	w := &waiter{granted: make(chan struct{})}
	g.mu.Lock()
	g.waiting[c] = append(g.waiting[c], w)

	g.grantLocked()
	g.mu.Unlock()
	select {
	case <-w.granted:
	case <-ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		if w.given {
			g.releaseLocked(c)
		} else {
			g.dropLocked(c, w)
		}
		return nil, context.Cause(ctx)
	}
	start := g.now()
	return func() {
		held := g.now().Sub(start)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.perItem += (held - g.perItem) / 16
		g.releaseLocked(c)
	}, nil
}

func (g *semaphore) dropLocked(c block.Class, w *waiter) {
	for i, other := range g.waiting[c] {
		if other == w {
			g.waiting[c] = append(g.waiting[c][:i], g.waiting[c][i+1:]...)

			return
		}
	}
}

func (g *semaphore) releaseLocked(c block.Class) {
	g.free++
	if !urgent(c) {
		g.bulk++
	}
	g.grantLocked()
}

func (g *semaphore) grantLocked() {
	for c := range block.Class(classes) {
		for len(g.waiting[c]) > 0 && g.free > 0 && (urgent(c) || g.bulk > 0) {
			w := g.waiting[c][0]
			g.waiting[c] = g.waiting[c][1:]

			g.free--
			if !urgent(c) {
				g.bulk--
			}
			w.given = true
			close(w.granted)
		}
		if len(g.waiting[c]) > 0 && urgent(c) {
			return // nothing less urgent goes first
		}
	}
}

// delay estimates how long a request of class c would wait for a place behind
// ahead blocks that are about to queue up.
func (g *semaphore) delay(c block.Class, ahead int) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range int(c) + 1 {
		ahead += len(g.waiting[i])
	}
	return time.Duration(ahead) * g.perItem / time.Duration(g.places)
}
