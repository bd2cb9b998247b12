package stream

import (
	"context"
	"sync"
	"time"
)

// load counts the reads that wait for blocks, so that background work can stand
// back. The zero value is ready.
type load struct {
	mu      sync.Mutex
	waiting int
	last    time.Time     // when the last read stopped waiting
	idle    chan struct{} // closed when waiting becomes 0; nil while nobody asks
}

func (l *load) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting++
}

func (l *load) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting--
	l.last = time.Now()
	if l.waiting == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting
}

// quietFor returns for how long no read has waited, 0 while one does.
func (l *load) quietFor() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting > 0 {
		return 0
	}
	return time.Since(l.last)
}

// wait returns when no read has waited for the duration quiet, when limit has
// passed, or when ctx has ended; the error is that of ctx.
func (l *load) wait(ctx context.Context, quiet, limit time.Duration) error {
	end := time.NewTimer(limit)
	defer end.Stop()
	for {
		idle, rest := l.state(quiet)
		if idle == nil && rest <= 0 {
			return ctx.Err()
		}
		var pause <-chan time.Time
		if idle == nil {
			timer := time.NewTimer(rest)
			defer timer.Stop()
			pause = timer.C
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end.C:
			return nil
		case <-idle:
		case <-pause:
		}
	}
}

// state returns a channel that closes when the reads that wait now are done, or, if
// none waits, nil and how long to wait for quiet.
func (l *load) state(quiet time.Duration) (<-chan struct{}, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == 0 {
		return nil, quiet - time.Since(l.last)
	}
	if l.idle == nil {
		l.idle = make(chan struct{})
	}
	return l.idle, 0
}
