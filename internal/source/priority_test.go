package source_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
)

// gate is a source whose fetches note their class and wait for a token.
type gate struct {
	mu      sync.Mutex
	started []block.Class
	tokens  chan struct{}
}

func (g *gate) Fetch(ctx context.Context, req block.Request, _ block.Sink) error {
	g.mu.Lock()
	g.started = append(g.started, req.Class)
	g.mu.Unlock()
	select {
	case <-g.tokens:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g *gate) drainStarted() []block.Class {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	started := g.started
	g.started = nil
	return started
}

func TestPriorityOrder(t *testing.T) {
	const read, head, tail, fill = block.ClassRead, block.ClassHead, block.ClassTail, block.ClassFill
	synctest.Test(t, func(t *testing.T) {
		g := &gate{tokens: make(chan struct{})}
		p := source.NewPriority(g, source.PriorityConfig{Permits: 3, FillPermits: 1})
		var wg sync.WaitGroup
		ask := func(classes ...block.Class) {
			for _, c := range classes {
				wg.Go(func() {
					if err := p.Fetch(t.Context(), block.Request{Range: block.Range{Count: 1}, Class: c}, discard); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
			}
		}
		check := func(what string, want ...block.Class) {
			t.Helper()
			if diff := cmp.Diff(want, g.drainStarted()); diff != "" {
				t.Errorf("%s: started (-want +got):\n%s", what, diff)
			}
		}
		ask(fill, fill, tail)
		check("one permit for fills, one kept for the urgent", fill, tail)
		ask(tail)
		check("a permit kept for the urgent")
		ask(read, head)
		check("the permit kept for the urgent", read)
		ask(fill, head, read, tail, read)
		check("all permits taken")
		// The fetches end in the order they started.
		for i, want := range [][]block.Class{{read}, {read}, {head}, {head}, {tail}, {tail}, nil, {fill}, nil, {fill}, nil} {
			g.tokens <- struct{}{}
			check(fmt.Sprintf("token %d", i), want...)
		}
		wg.Wait()
	})
}

func TestPriorityGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{tokens: make(chan struct{})}
		p := source.NewPriority(g, source.PriorityConfig{Permits: 1})
		req := block.Request{Range: block.Range{Count: 1}}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Fetch(t.Context(), req, discard); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Fetch(ctx, req, discard); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v, want the cause of the context", err)
		}
		g.tokens <- struct{}{}
		wg.Wait()
		wg.Go(func() { g.tokens <- struct{}{} })
		if err := p.Fetch(t.Context(), req, discard); err != nil {
			t.Errorf("the permit was lost: %v", err)
		}
		wg.Wait()
	})
}

func TestPriorityIdle(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		g := &gate{tokens: make(chan struct{})}
		p := source.NewPriority(g, source.PriorityConfig{})
		if err := p.WaitIdle(t.Context()); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Fetch(t.Context(), block.Request{Range: part(r, 0, 1)}, discard); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := p.WaitIdle(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("idle while a read runs: %v", err)
		}
		g.tokens <- struct{}{}
		if err := p.WaitIdle(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// TestPriorityShares checks what fills get of a link beside reads that wait for round
// trips, and beside such that wait for bandwidth: the rest, but a quarter at least.
func TestPriorityShares(t *testing.T) {
	const perBlock = 10 * time.Millisecond // of the link
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	for name, test := range map[string]struct {
		roundTrip   time.Duration
		least, most int64 // blocks of fill in 2 s of reads; the link carries 200 in all
	}{
		"round trips": {roundTrip: 90 * time.Millisecond, least: 100, most: 185},
		"bandwidth":   {roundTrip: 0, least: 45, most: 92},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := blocktest.NewSource(fx)
				link := make(chan struct{}, 1)
				p := source.NewPriority(sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
					if req.Class == block.ClassRead {
						<-time.After(test.roundTrip)
					}
					return src.Fetch(ctx, req, func(k block.Key, data []byte) error {
						link <- struct{}{}
						<-time.After(perBlock)
						<-link
						return sink(k, data)
					})
				}), source.PriorityConfig{})
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				var filled atomic.Int64
				wg.Go(func() {
					for ctx.Err() == nil {
						err := p.Fetch(t.Context(), block.Request{Range: r, Class: block.ClassFill}, func(block.Key, []byte) error {
							filled.Add(1)
							return nil
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
				// Alone, the fill has all of it, and shows what there is.
				<-time.After(2 * time.Second)
				if n := filled.Load(); n < 195 {
					t.Errorf("%d blocks of fill in 2 s without reads, want 200", n)
				}
				filled.Store(0)
				for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
					mustFetch(t, fx, p, part(r, 0, 1))
				}
				if n := filled.Load(); n < test.least || n > test.most {
					t.Errorf("%d blocks of fill in 2 s beside reads, want %d to %d", n, test.least, test.most)
				}
				cancel()
				wg.Wait()
			})
		})
	}
}

// TestPriorityServesWhatReadsWaitFor checks that a fill is not held up for a read
// elsewhere while another read waits for what it brings.
func TestPriorityServesWhatReadsWaitFor(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range() // 16 blocks
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		elsewhere := make(chan struct{})
		p := source.NewPriority(sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
			if req.Class == block.ClassRead {
				<-elsewhere
			}
			return src.Fetch(ctx, req, func(k block.Key, data []byte) error {
				<-time.After(10 * time.Millisecond)
				return sink(k, data)
			})
		}), source.PriorityConfig{MaxFillPause: time.Minute})
		// Two of them, as on a node: the outer one is where reads come in.
		shared := source.NewSingleFlight(source.NewSingleFlight(p, source.SingleFlightConfig{}), source.SingleFlightConfig{})
		var background sync.WaitGroup
		background.Go(func() {
			if err := shared.Fetch(t.Context(), block.Request{Range: r, Class: block.ClassFill}, discard); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		background.Go(func() { mustFetch(t, fx, p, part(r, 15, 1)) })
		<-time.After(15 * time.Millisecond) // the fill has brought a block, and pauses
		start := time.Now()
		mustFetch(t, fx, shared, part(r, 3, 1))
		if d := time.Since(start); d > 45*time.Millisecond {
			t.Errorf("the read waited %s for the third block after, want 35ms and a look", d)
		}
		if n := len(src.Requests()); n != 1 {
			t.Errorf("%d requests, want that of the fill", n)
		}
		close(elsewhere)
		background.Wait()
	})
}
