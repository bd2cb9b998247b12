package source_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
)

const frameBlocks = 4

// wholeFrames makes every range one of whole frames of four blocks.
func wholeFrames(r block.Range) block.Range {
	first := r.First / frameBlocks * frameBlocks
	end := (r.End() + frameBlocks - 1) / frameBlocks * frameBlocks
	return block.Range{Layer: r.Layer, First: first, Count: end - first}
}

// framed returns a source that takes a second for each block of a frame, and a
// shared fetch of whole frames in front of it.
func framed(fx *blocktest.Fixture) (*blocktest.Source, *source.SingleFlight) {
	src := blocktest.NewSource(fx)
	slow := sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
		return src.Fetch(ctx, req, func(k block.Key, data []byte) error {
			select {
			case <-time.After(time.Second):
				return sink(k, data)
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	return src, source.NewSingleFlight(slow, source.SingleFlightConfig{ExpandToFrames: wholeFrames})
}

// arrivals fetches r and returns which blocks came, each with its second.
func arrivals(ctx context.Context, s block.Source, r block.Range) ([]string, error) {
	var got []string
	start := time.Now()
	err := s.Fetch(ctx, block.Request{Range: r}, func(k block.Key, _ []byte) error {
		got = append(got, fmt.Sprintf("%d@%s", k.Index, time.Since(start)))
		return nil
	})
	return got, err
}

// TestSingleFlightKeepsWhatComesAlong checks that the request that started a fetch
// has its own block at once and all others of the frame by the time it returns.
func TestSingleFlightKeepsWhatComesAlong(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		src, s := framed(fx)
		got, err := arrivals(t.Context(), s, part(r, 5, 1))
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"4@1s", "5@2s", "6@3s", "7@4s"}, got); diff != "" {
			t.Errorf("arrivals (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]block.Range{part(r, 4, 4)}, ranges(src.Requests())); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

// TestSingleFlightJoinsFrames checks that whoever wants another block of a frame
// that is on its way waits for it instead of fetching the frame again, and has it as
// soon as it comes.
func TestSingleFlightJoinsFrames(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		src, s := framed(fx)
		var wg sync.WaitGroup
		wg.Go(func() { mustFetch(t, fx, s, part(r, 4, 1)) })
		synctest.Wait()
		wg.Go(func() {
			got, err := arrivals(t.Context(), s, part(r, 6, 1))
			if diff := cmp.Diff([]string{"6@3s"}, got); err != nil || diff != "" {
				t.Errorf("arrivals (-want +got):\n%s, error %v", diff, err)
			}
		})
		wg.Go(func() { mustFetch(t, fx, s, part(r, 5, 5)) }) // into the next frame
		wg.Wait()
		got := ranges(src.Requests())
		slices.SortFunc(got, func(a, b block.Range) int { return int(a.First) - int(b.First) })
		if diff := cmp.Diff([]block.Range{part(r, 4, 4), part(r, 8, 4)}, got); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

// TestSingleFlightStarterLeaves checks that a fetch goes on for those who joined it
// when the request that started it gives up, and ends if they do as well before the
// block it was started for has come.
func TestSingleFlightStarterLeaves(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	for _, test := range []struct {
		name     string
		joined   time.Duration // until the request that joins gives up
		sent     int           // how often the last block of the frame is
		wantNone bool
	}{
		{"joined stays", time.Hour, 1, false},
		{"all leave", 500 * time.Millisecond, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, s := framed(fx)
				fetch := func(patience time.Duration, r block.Range) ([]string, error) {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					return arrivals(ctx, s, r)
				}
				var wg sync.WaitGroup
				wg.Go(func() {
					if _, err := fetch(time.Millisecond, part(r, 4, 1)); !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("error is %v, want that of the deadline", err)
					}
				})
				synctest.Wait()
				wg.Go(func() {
					if got, err := fetch(test.joined, part(r, 5, 1)); (len(got) == 0) != test.wantNone || (err != nil) != test.wantNone {
						t.Errorf("joined request got %v, error %v", got, err)
					}
				})
				wg.Wait()
				<-time.After(time.Minute)
				if n := src.Sent(r.Key(7)); n != test.sent {
					t.Errorf("the last block of the frame was fetched %d times, want %d", n, test.sent)
				}
				mustFetch(t, fx, s, part(r, 7, 1))
				if n := len(src.Requests()); n != 2 {
					t.Errorf("%d requests, want 2: one before, one of what is fetched again", n)
				}
			})
		})
	}
}

// TestSingleFlightDistrustsAlong checks that an answer that is not about the range
// asked for, or is too long, is left aside.
func TestSingleFlightDistrustsAlong(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	for name, along := range map[string]block.Range{
		"other layer":  {Layer: block.Sum(nil), First: 0, Count: 8},
		"starts later": part(r, 5, 3),
		"ends earlier": part(r, 3, 1),
		"too long":     part(r, 0, 9),
	} {
		t.Run(name, func(t *testing.T) {
			src := blocktest.NewSource(fx)
			s := source.NewSingleFlight(src, source.SingleFlightConfig{
				Window: 8, ExpandToFrames: func(block.Range) block.Range { return along },
			})
			mustFetch(t, fx, s, part(r, 4, 1))
			if diff := cmp.Diff([]block.Range{part(r, 4, 1)}, ranges(src.Requests())); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}
