package node

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// steady is a source that takes a time for each block.
type steady struct {
	block.Source
	each time.Duration
}

// Fetch implements [block.Source].
func (s steady) Fetch(_ context.Context, req block.Request, sink block.Sink) error {
	for i := range req.Count {
		<-time.After(s.each)
		if err := sink(req.Key(i), make([]byte, block.Size)); err != nil {
			return err
		}
	}
	return nil
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var measured rate
		read := func(each time.Duration, requests int, idle time.Duration) {
			done := make(chan error, requests)
			src := measured.measure(steady{each: each})
			for range requests {
				go func() {
					done <- src.Fetch(t.Context(), block.Request{Range: block.Range{Count: 64}}, func(block.Key, []byte) error { return nil })
				}()
			}
			for range requests {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			<-time.After(idle)
		}
		expect := func(want float64) {
			t.Helper()
			if got := float64(measured.perSecond()); math.Abs(got-want) > want/10 {
				t.Errorf("%.0f bytes a second instead of %.0f", got, want)
			}
		}
		if measured.perSecond() != 0 {
			t.Error("a rate that was not measured is known")
		}
		// Time without requests does not count, and those at the same time count together.
		const second = 100 * block.Size
		read(10*time.Millisecond, 1, time.Hour)
		expect(second)
		read(10*time.Millisecond, 1, time.Hour)
		expect(second)
		for range 4 {
			read(10*time.Millisecond, 4, time.Hour)
		}
		expect(4 * second)
		for range 10 {
			read(100*time.Millisecond, 1, 0)
		}
		expect(second / 10)
	})
}
