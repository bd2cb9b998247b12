package blocktest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
)

func TestSourceConformance(t *testing.T) {
	for name, fx := range map[string]*blocktest.Fixture{"tar": blocktest.Standard(), "raw": blocktest.Raw()} {
		t.Run(name, func(t *testing.T) {
			blocktest.TestSource(t, fx, func(_ *testing.T, fx *blocktest.Fixture) block.Source {
				return blocktest.NewSource(fx)
			})
		})
	}
	t.Run("frames", func(t *testing.T) {
		blocktest.TestSource(t, blocktest.Standard(), func(_ *testing.T, fx *blocktest.Fixture) block.Source {
			src := blocktest.NewSource(fx)
			src.Frame(4)
			return src
		})
	})
}

func fetch(ctx context.Context, src block.Source, r block.Range) (map[block.Key][]byte, error) {
	got := make(map[block.Key][]byte)
	err := src.Fetch(ctx, block.Request{Range: r}, func(k block.Key, data []byte) error {
		got[k] = append([]byte(nil), data...)
		return nil
	})
	return got, err
}

func TestFaults(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	src := blocktest.NewSource(fx)

	src.Flip(r.Key(3))
	got, err := fetch(t.Context(), src, r)
	if err != nil {
		t.Fatal(err)
	}
	for k, data := range got {
		want, _ := fx.BlockDigest(k)
		if wrong := block.Sum(data) != want; wrong != (k == r.Key(3)) {
			t.Errorf("block %s: wrong is %t", k, wrong)
		}
	}
	src.Repair(r.Key(3))

	src.Drop(r.Key(5))
	got, err = fetch(t.Context(), src, r)
	if !errors.Is(err, block.ErrNotFound) || len(got) != int(r.Count)-1 || got[r.Key(5)] != nil {
		t.Errorf("with a dropped block: %d blocks, error %v", len(got), err)
	}

	src.Fail(block.ErrUnavailable)
	if got, err = fetch(t.Context(), src, r); !errors.Is(err, block.ErrUnavailable) || len(got) > 0 {
		t.Errorf("with a failure: %d blocks, error %v", len(got), err)
	}
	if n := src.Sent(r.Key(0)); n != 2 {
		t.Errorf("first block was sent %d times, want 2", n)
	}
	want := []block.Request{{Range: r}, {Range: r}, {Range: r}}
	if diff := cmp.Diff(want, src.Requests()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestTiming(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		src.Delay(time.Minute)
		start := time.Now()
		if _, err := fetch(t.Context(), src, r); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("delayed fetch took %s", d)
		}
		release := src.Stall()
		defer release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := fetch(ctx, src, r); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stalled fetch: %v", err)
		}
		time.AfterFunc(time.Hour, release)
		if _, err := fetch(t.Context(), src, r); err != nil {
			t.Errorf("fetch after the stall: %v", err)
		}
	})
}
