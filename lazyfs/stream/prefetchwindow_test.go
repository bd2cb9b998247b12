package stream_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// slowLink is a source behind a link: each request takes a round trip, and what it brings, bytes a
// second together with all others.
type slowLink struct {
	block.Source
	roundTrip time.Duration
	perBlock  time.Duration
	wire      chan struct{} // holds a token while a block is on it

	mu      sync.Mutex // guards what follows
	running int
	most    int                  // requests at a time
	blocks  map[block.Digest]int // that have come
}

func newSlowLink(fx *blocktest.Fixture, roundTrip, perBlock time.Duration) *slowLink {
	return &slowLink{
		Source: blocktest.NewSource(fx), roundTrip: roundTrip, perBlock: perBlock,
		wire: make(chan struct{}, 1), blocks: make(map[block.Digest]int),
	}
}

func (l *slowLink) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	l.mu.Lock()
	l.running++
	l.most = max(l.most, l.running)
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.running--
	}()
	<-time.After(l.roundTrip)
	return l.Source.Fetch(ctx, req, func(k block.Key, data []byte) error {
		l.wire <- struct{}{}
		<-time.After(l.perBlock)
		<-l.wire
		l.mu.Lock()
		l.blocks[k.Layer]++
		l.mu.Unlock()
		return sink(k, data)
	})
}

// sent returns how many blocks of a layer have come.
func (l *slowLink) sent(layer *blocktest.Layer) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.blocks[layer.ID]
}

// most returns all blocks of a layer but every fourth.
func most(l *blocktest.Layer) (all []block.Range, blocks int) {
	for i := uint32(0); i+4 <= l.Range().Count; i += 4 {
		all = append(all, block.Range{Layer: l.ID, First: i, Count: 3})
	}
	return all, 3 * len(all)
}

// TestPrefetchFillsTheLink checks that as much is in flight as a link needs, whatever its rate and
// delay, and not much more.
func TestPrefetchFillsTheLink(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 100<<20)})
	for name, test := range map[string]struct {
		roundTrip, perBlock time.Duration
		most                int // requests
	}{
		"fast and near": {time.Millisecond, 600 * time.Microsecond, 16},
		"fast":          {10 * time.Millisecond, 600 * time.Microsecond, 16},
		"slow and far":  {40 * time.Millisecond, 25 * time.Millisecond, 16},
		"slow":          {10 * time.Millisecond, 25 * time.Millisecond, 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				link := newSlowLink(fx, test.roundTrip, test.perBlock)
				r := newReader(t, stream.Config{Source: link, ReadAhead: -1})
				trace, blocks := most(fx.Layers()[0])
				f := r.NewFiller([]*stream.Layer{open(r, fx.Layers()[0])}, stream.FillConfig{Trace: trace, OnlyTrace: true})
				start := time.Now()
				if err := f.Prefetch(t.Context()); err != nil {
					t.Fatal(err)
				}
				least := time.Duration(blocks) * test.perBlock
				if share := least.Seconds() / time.Since(start).Seconds(); share < 0.85 || link.most > test.most {
					t.Errorf("%.0f %% of the link with %d requests at most", 100*share, link.most)
				}
			})
		})
	}
}

// TestPrefetchJoinsFrames checks that what lies in the same frame, or in frames beside each
// other, is requested once, unless that would bring it long before its time.
func TestPrefetchJoinsFrames(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 200*block.Size)})
	layer := fx.Layers()[0]
	// Frames end in the middle of every fifth block: 0-3, 5-8, 10-13 come whole.
	along := func(r block.Range) block.Range {
		first, end := r.First, r.End()
		if first%5 != 4 {
			first -= first % 5
		}
		if end%5 != 0 {
			end += 4 - end%5
		}
		return block.Range{Layer: r.Layer, First: first, Count: end - first}
	}
	of := func(numbers ...uint32) []block.Range {
		var all []block.Range
		for _, i := range numbers {
			all = append(all, block.Range{Layer: layer.ID, First: i, Count: 1})
		}
		return all
	}
	for name, test := range map[string]struct {
		trace []block.Range
		along func(block.Range) block.Range
		want  [][2]uint32 // first block and number
	}{
		"one frame":        {of(2, 0, 3), along, [][2]uint32{{0, 4}}},
		"frames in a row":  {of(2, 12, 7), along, [][2]uint32{{0, 14}}},
		"frames apart":     {of(2, 12), along, [][2]uint32{{0, 4}, {10, 4}}},
		"longer than that": {of(2, 7, 12, 17, 22), along, [][2]uint32{{0, 14}, {15, 9}}},
		"far ahead":        {append(of(2, 41, 43, 51, 53, 61, 63, 71, 73), of(7)...), along, [][2]uint32{{0, 4}, {40, 4}, {50, 4}, {60, 4}, {70, 4}, {5, 4}}},
		"without frames":   {of(2, 0, 3, 1), nil, [][2]uint32{{0, 4}}},
		"nothing between":  {of(2, 4), nil, [][2]uint32{{2, 1}, {4, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := blocktest.NewSource(fx)
			r := newReader(t, stream.Config{Source: src, ExpandToFrames: test.along, ReadAhead: -1})
			f := r.NewFiller([]*stream.Layer{open(r, layer)}, stream.FillConfig{Trace: test.trace, OnlyTrace: true})
			if err := f.Prefetch(t.Context()); err != nil {
				t.Fatal(err)
			}
			var got [][2]uint32
			for _, req := range src.Requests() {
				got = append(got, [2]uint32{req.First, req.Count})
			}
			slices.SortFunc(got, func(a, b [2]uint32) int { return int(a[0]) - int(b[0]) })
			slices.SortFunc(test.want, func(a, b [2]uint32) int { return int(a[0]) - int(b[0]) })
			if !slices.Equal(got, test.want) {
				t.Errorf("requests %v, want %v", got, test.want)
			}
		})
	}
}

// TestPrefetchesShare checks that an image which starts while another one does gets half of
// what comes.
func TestPrefetchesShare(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(
		blocktest.Layer{Name: "a", Data: blocktest.Random(1, 200<<20)},
		blocktest.Layer{Name: "b", Data: blocktest.Random(2, 60<<20)},
	)
	synctest.Test(t, func(t *testing.T) {
		link := newSlowLink(fx, 10*time.Millisecond, time.Millisecond)
		r := newReader(t, stream.Config{Source: link, ReadAhead: -1})
		var wg sync.WaitGroup
		prefetch := func(l *blocktest.Layer) {
			trace, _ := most(l)
			f := r.NewFiller([]*stream.Layer{open(r, l)}, stream.FillConfig{Trace: trace, OnlyTrace: true})
			if err := f.Prefetch(t.Context()); err != nil {
				t.Error(err)
			}
		}
		first, second := fx.Layers()[0], fx.Layers()[1]
		wg.Go(func() { prefetch(first) })
		<-time.After(100 * time.Millisecond)
		before := link.sent(first)
		prefetch(second)
		if a, b := link.sent(first)-before, link.sent(second); b < 45 || a > b*4/3 || b > a*4/3 {
			t.Errorf("%d and %d blocks came at the same time", a, b)
		}
		wg.Wait()
	})
}
