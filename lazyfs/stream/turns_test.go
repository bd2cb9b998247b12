package stream_test

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// TestTurnsLeaveAProcessor checks that background work waits while a start needs a processor, and not
// for long.
func TestTurnsLeaveAProcessor(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 1<<20)})
	synctest.Test(t, func(t *testing.T) {
		r := newReader(t, stream.Config{Source: newSlowLink(fx, time.Millisecond, time.Millisecond)})
		urgent := r.Urgent()
		var running []func()
		begun := time.Now()
		for range max(1, runtime.GOMAXPROCS(0)-1) {
			running = append(running, r.TakeTurn(t.Context()))
		}
		if took := time.Since(begun); took != 0 {
			t.Errorf("as many as leave one processor waited %s", took)
		}
		time.AfterFunc(100*time.Millisecond, running[0])
		next := r.TakeTurn(t.Context())
		if took := time.Since(begun); took != 100*time.Millisecond {
			t.Errorf("the next one waited %s, want until another one has ended", took)
		}
		time.AfterFunc(100*time.Millisecond, urgent)
		r.TakeTurn(t.Context())()
		if took := time.Since(begun); took != 200*time.Millisecond {
			t.Errorf("it went on after %s, want when nothing is urgent any more", took)
		}
		defer r.Urgent()()
		r.TakeTurn(t.Context())()
		if took := time.Since(begun); took != 1200*time.Millisecond {
			t.Errorf("it went on after %s, want after a second at the latest", took)
		}
		next()
	})
}

// TestPrefetchTakesTurns checks that a prefetch goes on while something is urgent, and gives its turns back.
func TestPrefetchTakesTurns(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 64<<20)})
	layer := fx.Layers()[0]
	synctest.Test(t, func(t *testing.T) {
		r := newReader(t, stream.Config{Source: newSlowLink(fx, time.Millisecond, time.Millisecond), ReadAhead: -1})
		defer r.Urgent()()
		first := []block.Range{{Layer: layer.ID, First: 0, Count: 100}, {Layer: layer.ID, First: 150, Count: 100}}
		f := r.NewFiller([]*stream.Layer{open(r, layer)}, stream.FillConfig{OnlyTrace: true, Trace: first})
		begun := time.Now()
		if err := f.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 900*time.Millisecond {
			t.Errorf("the prefetch took %s, so it waited for turns that nobody had", took)
		}
	})
}
