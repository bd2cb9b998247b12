package stream_test

import (
	order "cmp"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

func TestFill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fx := blocktest.New(
			blocktest.Layer{Name: "low", Data: blocktest.Random(8, 40<<20+512)},
			blocktest.Layer{Name: "empty"},
			blocktest.Layer{Name: "high", Data: blocktest.Random(9, 9<<20)},
		)
		src := blocktest.NewSource(fx)
		src.Delay(10 * time.Millisecond)
		src.Fail(nil, block.ErrUnavailable, nil, block.ErrUnavailable)
		kept := newKeeper(src)
		r := newReader(t, stream.Config{Source: kept, Local: kept, Registerer: prometheus.NewRegistry()})
		layers := make([]*stream.Layer, 0, 3)
		for _, l := range fx.Layers() {
			layers = append(layers, open(r, l))
		}
		// A read that waited: its extent comes first.
		if err := layers[0].Fetch(t.Context(), make([]byte, 1), 22<<20); err != nil {
			t.Fatal(err)
		}
		f := r.NewFiller(layers, stream.FillConfig{Parallel: 1})
		if err := f.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if done, total := f.Blocks(); done != total || total != 161+36 {
			t.Errorf("filled %d of %d blocks", done, total)
		}
		for k := range fx.Keys() {
			if !kept.Has(k) {
				t.Errorf("block %v is missing", k)
			}
			if n := src.Sent(k); n != 1 {
				t.Errorf("block %v was sent %d times", k, n)
			}
		}
		if req := src.Requests()[1]; req.First != 80 || req.Class != block.ClassFill {
			t.Errorf("fill began with %v of class %v, want the extent of the read that waited", req.Range, req.Class)
		}
	})
}

// TestFillFollowsReads checks the order of the fill, and that reads do not stop it: a
// program that reads all the time must not keep its image from becoming complete.
func TestFillFollowsReads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fx := blocktest.New(
			blocktest.Layer{Name: "low", Data: blocktest.Random(8, 20<<20)},
			blocktest.Layer{Name: "high", Data: blocktest.Random(9, 8<<20)},
		)
		src := blocktest.NewSource(fx)
		src.Delay(100 * time.Millisecond)
		r := newReader(t, stream.Config{Source: src, ReadAhead: -1})
		layers := []*stream.Layer{open(r, fx.Layers()[0]), open(r, fx.Layers()[1])}
		f := r.NewFiller(layers, stream.FillConfig{Parallel: 1})
		filled := make(chan error)
		go func() { filled <- f.Run(t.Context()) }()
		synctest.Wait()
		read := make(chan error)
		go func() { read <- layers[0].Fetch(t.Context(), make([]byte, 1), 9<<20) }()
		if err := errors.Join(<-read, <-filled); err != nil {
			t.Fatal(err)
		}
		var order []uint32
		for _, req := range src.Requests() {
			if req.Class == block.ClassFill {
				order = append(order, req.First/block.ExtentBlocks)
			}
		}
		// The top layer, until a read waits in the third extent of the other one.
		want := []uint32{0, 2, 3, 4, 0, 1, 1}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("extents in the order of the fill:\n%s", diff)
		}
	})
}

// TestFillBeginsWithTheTrace checks that what a start reads is fetched first, with its classes, and nothing of it twice.
func TestFillBeginsWithTheTrace(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(
		blocktest.Layer{Name: "low", Data: blocktest.Random(8, 20<<20)},
		blocktest.Layer{Name: "high", Data: blocktest.Random(9, 8<<20+1)},
	)
	low, high := fx.Layers()[0], fx.Layers()[1]
	first := []block.Range{
		{Layer: high.ID, First: 30, Count: 9}, // with blocks past the end
		{Layer: block.Sum([]byte("another")), First: 0, Count: 1},
		{Layer: low.ID, First: 40, Count: 40},
		{Layer: high.ID, First: 2, Count: 1},
	}
	want := []block.Request{
		{Range: block.Range{Layer: high.ID, First: 30, Count: 3}, Class: block.ClassHead},
		{Range: block.Range{Layer: low.ID, First: 40, Count: 16}, Class: block.ClassHead},
		{Range: block.Range{Layer: low.ID, First: 56, Count: 16}, Class: block.ClassHead},
		{Range: block.Range{Layer: low.ID, First: 72, Count: 8}, Class: block.ClassTail},
		{Range: block.Range{Layer: high.ID, First: 2, Count: 1}, Class: block.ClassTail},
	}
	for _, only := range []bool{false, true} {
		src := blocktest.NewSource(fx)
		kept := newKeeper(src)
		r := newReader(t, stream.Config{Source: kept, Local: kept, ReadAhead: -1})
		f := r.NewFiller([]*stream.Layer{open(r, low), open(r, high)}, stream.FillConfig{Parallel: 1, Trace: first, OnlyTrace: only})
		if err := f.Prefetch(t.Context()); err != nil {
			t.Fatal(err)
		}
		// All of them are sent at the same time.
		byPlace := func(a, b block.Request) int {
			return order.Or(strings.Compare(a.Layer.Hex(), b.Layer.Hex()), order.Compare(a.First, b.First))
		}
		if diff := cmp.Diff(slices.SortedFunc(slices.Values(want), byPlace), slices.SortedFunc(slices.Values(src.Requests()), byPlace)); diff != "" {
			t.Errorf("what was asked for first:\n%s", diff)
		}
		if err := f.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if more := len(src.Requests()) > len(want); more == only {
			t.Errorf("only the first: %v, %d requests", only, len(src.Requests()))
		}
		for k := range fx.Keys() {
			if n := src.Sent(k); n > 1 || n == 0 && !only {
				t.Errorf("block %v was sent %d times", k, n)
			}
		}
	}
}
