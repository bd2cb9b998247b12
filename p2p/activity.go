package p2p

import "sync"

// activity counts what others start on our behalf, and lets the owner wait for
// the end of it. The zero value is ready for use.
type activity struct {
	wg sync.WaitGroup

	mu     sync.Mutex // guards closed, and that nothing is added once it is set
	closed bool
}

// begin reports whether there is still something to take part in. Whoever got
// true calls end.
func (a *activity) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.wg.Add(1)
	return true
}

func (a *activity) end() { a.wg.Done() }

// close refuses what is still to come and waits for what has begun.
func (a *activity) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.wg.Wait()
}
