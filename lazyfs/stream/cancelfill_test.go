package stream_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// fairLink is a link that requests share equally, a block after the other, until their contexts end. A
// request takes a round trip.
type fairLink struct {
	fx                  *blocktest.Fixture
	roundTrip, perBlock time.Duration

	mu      sync.Mutex
	turns   []chan struct{} // of the requests that wait for the link; the first one has it
	given   int             // requests of the fill that were given up
	sent    int             // blocks
	lastEnd time.Time       // when the fill was given up last
}

func (l *fairLink) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	select {
	case <-time.After(l.roundTrip):
	case <-ctx.Done():
		return l.end(ctx)
	}
	for i := range req.Count {
		turn := make(chan struct{})
		l.mu.Lock()
		if l.turns = append(l.turns, turn); len(l.turns) == 1 {
			close(turn)
		}
		l.mu.Unlock()
		<-turn
		<-time.After(l.perBlock)
		l.mu.Lock()
		if l.turns = l.turns[1:]; len(l.turns) > 0 {
			close(l.turns[0])
		}
		l.sent++
		l.mu.Unlock()
		if ctx.Err() != nil {
			return l.end(ctx)
		}
		if err := sink(req.Key(i), l.fx.Content(req.Key(i))); err != nil {
			return err
		}
	}
	return nil
}

func (l *fairLink) end(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.given++
	l.lastEnd = time.Now()
	return context.Cause(ctx)
}

// TestFillYieldsToReads checks that what is in flight of the fill on a slow link is given up when a read has
// waited for a round trip, so that the read has the link: it takes hardly more than alone. On a fast link
// nothing is given up. The fill gets on all the same, and everything is there in the end.
func TestFillYieldsToReads(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 64<<20)}, blocktest.Layer{Name: "b", Data: blocktest.Random(2, 64<<20)})
	for name, test := range map[string]struct {
		roundTrip, perBlock time.Duration
		most                time.Duration // a read of four blocks may take
		yields              bool
	}{
		"slow": {40 * time.Millisecond, 25 * time.Millisecond, 300 * time.Millisecond, true},
		"fast": {10 * time.Millisecond, 600 * time.Microsecond, 40 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				link := &fairLink{fx: fx, roundTrip: test.roundTrip, perBlock: test.perBlock}
				kept := newKeeper(link)
				r := newReader(t, stream.Config{Source: kept, Local: kept, ReadAhead: -1})
				filled, read := open(r, fx.Layers()[0]), open(r, fx.Layers()[1])
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := r.NewFiller([]*stream.Layer{filled}, stream.FillConfig{}).Run(t.Context()); err != nil {
						t.Error(err)
					}
				})
				<-time.After(4*time.Second + 100*time.Millisecond) // the start is over, and the fill in full swing
				for i := range int64(3) {
					begun := time.Now()
					if err := read.Fetch(t.Context(), make([]byte, 4*block.Size), i*16<<20); err != nil {
						t.Fatal(err)
					}
					if took := time.Since(begun); took > test.most {
						t.Errorf("read %d took %s, want at most %s", i, took, test.most)
					}
					link.mu.Lock()
					given, last := link.given, link.lastEnd
					link.mu.Unlock()
					if gave := !last.Before(begun); gave != test.yields {
						t.Errorf("the fill was given up: %v (%d requests)", gave, given)
					}
					<-time.After(2 * time.Second)
				}
				wg.Wait()
				for i := range block.Count(filled.Size()) {
					if !kept.Has(block.Key{Layer: filled.ID(), Index: i}) {
						t.Fatalf("block %d was not loaded", i)
					}
				}
			})
		})
	}
}

// TestFillGetsOnBesideReads checks that a program which waits for reads all the time does not keep the fill from
// loading its image.
func TestFillGetsOnBesideReads(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 16<<20)}, blocktest.Layer{Name: "b", Data: blocktest.Random(2, 256<<20)})
	synctest.Test(t, func(t *testing.T) {
		link := &fairLink{fx: fx, roundTrip: 40 * time.Millisecond, perBlock: 25 * time.Millisecond}
		kept := newKeeper(link)
		r := newReader(t, stream.Config{Source: kept, Local: kept, ReadAhead: -1})
		filled, read := open(r, fx.Layers()[0]), open(r, fx.Layers()[1])
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for off := int64(0); ctx.Err() == nil; off = (off + 5<<20) % (250 << 20) {
				_ = read.Fetch(ctx, make([]byte, block.Size), off) //nolint:errcheck // it is cancelled
			}
		})
		begun := time.Now()
		if err := r.NewFiller([]*stream.Layer{filled}, stream.FillConfig{}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > 60*time.Second {
			t.Errorf("16 MiB took %s beside reads", took)
		}
		cancel()
		wg.Wait()
	})
}
