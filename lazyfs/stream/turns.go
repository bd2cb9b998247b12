package stream

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// turnWait bounds how long background work waits for its turn.
const turnWait = time.Second

// turns leave a processor to what a start waits for while others decode what comes in the background. A read
// takes none, but it may have to wait for a request in the background that it has joined, [turnWait] at most.
type turns struct {
	mu      sync.Mutex // guards the fields below
	urgent  int
	running int
	changed chan struct{} // closed and replaced when one of them falls
}

func newTurns() *turns { return &turns{changed: make(chan struct{})} }

// Urgent says that a start waits for this process to compute something, until done is called.
// Background work leaves it a processor if there is more than one.
func (r *Reader) Urgent() (done func()) {
	t := r.turns
	t.mu.Lock()
	defer t.mu.Unlock()
	t.urgent++
	return sync.OnceFunc(func() { t.lower(&t.urgent) })
}

// TakeTurn waits until background work may compute, for a second at most, and returns what to call when
// it has.
func (r *Reader) TakeTurn(ctx context.Context) (done func()) {
	t := r.turns
	limit := max(1, runtime.GOMAXPROCS(0)-1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.urgent > 0 && t.running >= limit {
		waiting, cancel := context.WithTimeout(ctx, turnWait)
		defer cancel()
		for t.urgent > 0 && t.running >= limit && waiting.Err() == nil {
			changed := t.changed
			t.mu.Unlock()
			select {
			case <-changed:
			case <-waiting.Done():
			}
			t.mu.Lock()
		}
	}
	t.running++
	return sync.OnceFunc(func() { t.lower(&t.running) })
}

func (t *turns) lower(n *int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*n--
	close(t.changed)
	t.changed = make(chan struct{})
}
