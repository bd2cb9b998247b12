package blocktest

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// patience is how long the suite waits for a fetch before it calls it hung. It
// is long because a loaded machine must not make a test fail.
const patience = 60 * time.Second

// Fetch asks src for the blocks of r with [block.ClassRead] and checks what any
// fetch must hold to: every block that comes has the bytes the fixture says, none
// comes twice, calls of the sink do not overlap and end with the fetch. It
// returns the blocks delivered, those not asked for included, and the error of
// the fetch.
func Fetch(ctx context.Context, tb testing.TB, fx *Fixture, src block.Source, r block.Range) (map[block.Key]bool, error) {
	tb.Helper()
	c := newCollector(tb, fx, r)
	err := c.fetch(ctx, src)
	return c.got, err
}

// collector is the sink of the suite.
type collector struct {
	tb  testing.TB
	fx  *Fixture
	req block.Request
	// then is called with every block delivered, if not nil; its error is that of
	// the sink.
	then func(k block.Key) error

	inside atomic.Bool
	closed atomic.Bool

	mu     sync.Mutex
	got    map[block.Key]bool
	failed bool
}

func newCollector(tb testing.TB, fx *Fixture, r block.Range) *collector {
	tb.Helper()
	return &collector{tb: tb, fx: fx, req: block.Request{Range: r}, got: make(map[block.Key]bool)}
}

// fetch runs the fetch, checks that it ends in time, and that nil means complete.
func (c *collector) fetch(ctx context.Context, src block.Source) error {
	c.tb.Helper()
	done := make(chan error, 1)
	go func() {
		err := src.Fetch(ctx, c.req, c.sink)
		c.closed.Store(true)
		done <- err
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-done:
		if err == nil {
			c.requireComplete()
		}
		return err
	case <-timer.C:
		c.tb.Errorf("fetch of %s has not returned after %s", c.req.Range, patience)
		return context.DeadlineExceeded
	}
}

func (c *collector) requireComplete() {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if missing := c.missingLocked(); len(missing) > 0 {
		c.tb.Errorf("fetch of %s returned nil without delivering %d blocks, the first of them %s",
			c.req.Range, len(missing), missing[0])
	}
}

func (c *collector) missingLocked() []block.Key {
	var missing []block.Key
	for k := range keys(c.req.Range) {
		if !c.got[k] {
			missing = append(missing, k)
		}
	}
	return missing
}

// asked returns how many blocks of the request have been delivered.
func (c *collector) asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for k := range c.got {
		if c.req.Contains(k) {
			n++
		}
	}
	return n
}

func (c *collector) sink(k block.Key, data []byte) error {
	if c.closed.Load() {
		c.tb.Errorf("block %s delivered after the fetch of %s had returned", k, c.req.Range)
	}
	if c.inside.Swap(true) {
		c.tb.Errorf("calls of the sink overlap at block %s", k)
	}
	defer c.inside.Store(false)
	c.check(k, data)
	if c.then != nil {
		if err := c.then(k); err != nil {
			c.mu.Lock()
			c.failed = true
			c.mu.Unlock()
			return err
		}
	}
	return nil
}

func (c *collector) check(k block.Key, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed {
		c.tb.Errorf("block %s delivered after the sink had returned an error", k)
	}
	if c.got[k] {
		c.tb.Errorf("block %s delivered twice", k)
	}
	c.got[k] = true
	want := c.fx.Content(k)
	switch {
	case want == nil:
		c.tb.Errorf("block %s delivered, which no layer has", k)
	case len(data) != len(want):
		c.tb.Errorf("block %s has %d bytes, want %d", k, len(data), len(want))
	case !bytes.Equal(data, want):
		c.tb.Errorf("block %s has wrong bytes", k)
	}
}
