package source_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
)

func discard(block.Key, []byte) error { return nil }

func TestSingleFlightShares(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		src.Delay(time.Second)
		s := source.NewSingleFlight(src, source.SingleFlightConfig{})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { mustFetch(t, fx, s, part(r, 4, 4)) })
		}
		synctest.Wait()
		wg.Go(func() { mustFetch(t, fx, s, r) }) // claims only what nobody fetches
		wg.Wait()
		for k := range fx.Keys() {
			want := 0
			if r.Contains(k) {
				want = 1
			}
			if n := src.Sent(k); n != want {
				t.Errorf("block %s was fetched %d times, want %d", k, n, want)
			}
		}
		got := make(map[block.Range]bool)
		for _, q := range ranges(src.Requests()) {
			got[q] = true
		}
		want := map[block.Range]bool{part(r, 4, 4): true, part(r, 0, 4): true, part(r, 8, 8): true}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

// TestSingleFlightCutsThrough checks that a waiter has each block when it comes,
// not when the whole fetch is complete.
func TestSingleFlightCutsThrough(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		slow := sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
			return src.Fetch(ctx, req, func(k block.Key, data []byte) error {
				<-time.After(time.Second)
				return sink(k, data)
			})
		})
		s := source.NewSingleFlight(slow, source.SingleFlightConfig{})
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { mustFetch(t, fx, s, r) })
		wg.Go(func() {
			synctest.Wait()
			mustFetch(t, fx, s, part(r, 2, 1))
			if d := time.Since(start); d != 3*time.Second {
				t.Errorf("third block came after %s, want 3s", d)
			}
		})
		wg.Wait()
	})
}

// TestSingleFlightWaiterLeaves checks that neither the first nor any other waiter
// takes the fetch with it, and that the last one does.
func TestSingleFlightWaiterLeaves(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		release := src.Stall()
		defer release()
		ended := make(chan error, 1)
		s := source.NewSingleFlight(sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
			err := src.Fetch(ctx, req, sink)
			ended <- err
			return err
		}), source.SingleFlightConfig{})

		gaveUp := errors.New("reader gave up")
		first, leave := context.WithCancelCause(t.Context())
		second, leaveToo := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		for _, ctx := range []context.Context{first, second} {
			wg.Go(func() {
				if _, err := blocktest.Fetch(ctx, t, fx, s, r); !errors.Is(err, gaveUp) {
					t.Errorf("error is %v, want one wrapping the cause", err)
				}
			})
			synctest.Wait()
		}
		leave(gaveUp)
		synctest.Wait()
		if len(ended) > 0 {
			t.Error("the fetch ended with its first waiter")
		}
		leaveToo(gaveUp)
		wg.Wait()
		if err := <-ended; err == nil {
			t.Error("the fetch went on with nobody waiting")
		}
		release()
		mustFetch(t, fx, s, r)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if n := len(src.Requests()); n != 2 {
			t.Errorf("%d requests, want 2: the abandoned one must not be joined", n)
		}
	})
}

func TestSingleFlightTimeout(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		defer src.Stall()()
		s := source.NewSingleFlight(src, source.SingleFlightConfig{Timeout: 20 * time.Second})
		start := time.Now()
		_, err := blocktest.Fetch(t.Context(), t, fx, s, r)
		if d := time.Since(start); !errors.Is(err, block.ErrUnavailable) || d != 20*time.Second {
			t.Errorf("after %s: %v; want ErrUnavailable after 20 s", d, err)
		}
	})
}

// TestSingleFlightReadOvertakes checks that a read is not held up by the queue
// that a fill of the same block waits in.
func TestSingleFlightReadOvertakes(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		queue := make(chan struct{})
		s := source.NewSingleFlight(sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
			if req.Class == block.ClassFill {
				<-queue
			}
			return src.Fetch(ctx, req, sink)
		}), source.SingleFlightConfig{HedgeDelay: 50 * time.Millisecond})
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Fetch(t.Context(), block.Request{Range: r, Class: block.ClassFill}, discard); err != nil {
				t.Errorf("fill: %v", err)
			}
		})
		synctest.Wait()
		start := time.Now()
		var reads sync.WaitGroup
		for range 10 {
			reads.Go(func() { mustFetch(t, fx, s, part(r, 3, 2)) })
		}
		reads.Wait()
		if d := time.Since(start); d != 50*time.Millisecond {
			t.Errorf("reads took %s, want 50ms", d)
		}
		if n := src.Sent(r.Key(3)); n != 1 {
			t.Errorf("ten reads fetched a block %d times, want once", n)
		}
		close(queue)
		wg.Wait()
	})
}

// TestSingleFlightReadWaitsForNearBlocks checks that a read does not fetch again what
// a fill is about to deliver, as long as the fill goes on.
func TestSingleFlightReadWaitsForNearBlocks(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	const pace = 40 * time.Millisecond // of the fill, less than the patience of the read
	for _, test := range []struct {
		name    string
		block   uint32
		stallAt uint32 // the fill hangs before this block
		took    time.Duration
		sent    int
	}{
		{"near", 5, 100, 6 * pace, 1},
		{"far", 12, 100, 50 * time.Millisecond, 2},
		// Block 2 comes at 120 ms; no other has come by the third look at 150 ms.
		{"stalled", 5, 3, 4 * 50 * time.Millisecond, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := blocktest.NewSource(fx)
				end := make(chan struct{})
				s := source.NewSingleFlight(sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
					return src.Fetch(ctx, req, func(k block.Key, data []byte) error {
						if req.Class == block.ClassFill && k.Index < test.stallAt {
							<-time.After(pace)
						} else if req.Class == block.ClassFill {
							<-end
						}
						return sink(k, data)
					})
				}), source.SingleFlightConfig{HedgeDelay: 50 * time.Millisecond, JoinDistance: 8})
				var fill sync.WaitGroup
				fill.Go(func() {
					if err := s.Fetch(t.Context(), block.Request{Range: r, Class: block.ClassFill}, discard); err != nil {
						t.Errorf("fill: %v", err)
					}
				})
				synctest.Wait()
				start := time.Now()
				mustFetch(t, fx, s, part(r, test.block, 1))
				if took := time.Since(start); took != test.took {
					t.Errorf("the read took %s, want %s", took, test.took)
				}
				close(end)
				fill.Wait()
				if n := src.Sent(r.Key(test.block)); n != test.sent {
					t.Errorf("the block was fetched %d times, want %d", n, test.sent)
				}
			})
		})
	}
}

// TestSingleFlightFailures checks who learns of a failure and who tries again.
func TestSingleFlightFailures(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	for _, test := range []struct {
		name           string
		failures       []error
		owner, joined  error
		wantedRequests int
	}{
		{"fails once", []error{block.ErrUnavailable}, block.ErrUnavailable, nil, 2},
		{"fails twice", []error{block.ErrUnavailable, block.ErrCorrupt}, block.ErrUnavailable, block.ErrCorrupt, 2},
		{"not found", []error{block.ErrNotFound}, block.ErrNotFound, block.ErrNotFound, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := blocktest.NewSource(fx)
				src.Delay(time.Second)
				src.Fail(test.failures...)
				s := source.NewSingleFlight(src, source.SingleFlightConfig{})
				var wg sync.WaitGroup
				for i := range 5 {
					want := test.joined
					if i == 0 {
						want = test.owner
					}
					wg.Go(func() {
						if _, err := blocktest.Fetch(t.Context(), t, fx, s, r); !errors.Is(err, want) {
							t.Errorf("request %d: error is %v, want %v", i, err, want)
						}
					})
					synctest.Wait()
				}
				wg.Wait()
				if n := len(src.Requests()); n != test.wantedRequests {
					t.Errorf("%d requests, want %d", n, test.wantedRequests)
				}
			})
		})
	}
}

// TestSingleFlightFinishes checks that what comes along after the blocks asked
// for still reaches the store below.
func TestSingleFlightFinishes(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		src, disk := blocktest.NewSource(fx), newStore()
		src.Frame(8)
		slow := sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
			return src.Fetch(ctx, req, func(k block.Key, data []byte) error {
				<-time.After(time.Second)
				return sink(k, data)
			})
		})
		s := source.NewSingleFlight(source.ReadThrough(disk, slow, source.ReadThroughConfig{}), source.SingleFlightConfig{})
		mustFetch(t, fx, s, part(r, 0, 1))
		<-time.After(time.Minute)
		for i := range uint32(8) {
			if !disk.Has(r.Key(i)) {
				t.Errorf("block %d of the frame was not stored", i)
			}
		}
	})
}

// TestSingleFlightUnderFaults runs many requests over a source that does all it
// may do at once.
func TestSingleFlightUnderFaults(t *testing.T) {
	fx := blocktest.Standard()
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		src.Frame(3)
		src.Delay(7 * time.Millisecond)
		for range 40 {
			src.Fail(block.ErrUnavailable, nil, nil)
		}
		s := source.NewSingleFlight(src, source.SingleFlightConfig{Window: 5, HedgeDelay: 3 * time.Millisecond})
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(5+i)*time.Millisecond)
				defer cancel()
				for j, l := range fx.Layers() {
					q := block.Request{Range: l.Range(), Class: block.Class((i + j) % 4)}
					q.First += uint32(i % 5)
					q.Count -= min(q.Count, uint32(i%5))
					seen := make(map[block.Key]bool)
					err := s.Fetch(ctx, q, func(k block.Key, data []byte) error {
						if want, _ := fx.BlockDigest(k); seen[k] || block.Sum(data) != want {
							return fmt.Errorf("block %s is wrong or came twice", k)
						}
						seen[k] = true
						<-time.After(time.Millisecond / 4)
						return nil
					})
					if err != nil && !errors.Is(err, block.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("request %d: %v", i, err)
					}
				}
			})
		}
		wg.Wait()
	})
}
