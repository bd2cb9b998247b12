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

// timeline notes when requests of each class are sent, and how many blocks of the fill are in
// flight.
type timeline struct {
	block.Source
	begin time.Time

	mu     sync.Mutex // guards what follows
	sent   map[block.Class][]time.Duration
	flying uint32
	most   uint32
}

func newTimeline(src block.Source) *timeline {
	return &timeline{Source: src, begin: time.Now(), sent: make(map[block.Class][]time.Duration)}
}

func (l *timeline) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	l.mu.Lock()
	l.sent[req.Class] = append(l.sent[req.Class], time.Since(l.begin))
	if req.Class == block.ClassFill {
		l.flying += req.Count
		l.most = max(l.most, l.flying)
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.flying -= req.Count
		}()
	}
	l.mu.Unlock()
	return l.Source.Fetch(ctx, req, sink)
}

// times returns when requests of a class were sent.
func (l *timeline) times(class block.Class) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.sent[class])
}

// reads are of size bytes each, a step from one to the next, of the first bytes of a layer.
type reads struct{ size, step, within int64 }

var (
	scattered = reads{512 << 10, 5<<20 + 512<<10, 140 << 20}
	small     = reads{4 << 10, 5<<20 + 512<<10, 140 << 20}
	together  = reads{512 << 10, 512 << 10, 140 << 20}
	ofTrace   = reads{512 << 10, 512 << 10, 16 << 20}
)

// readUntil reads again and again, with pauses.
func readUntil(t *testing.T, l *stream.Layer, begin time.Time, end, pause time.Duration, reads reads) {
	t.Helper()
	size := reads.size
	for off := int64(0); time.Since(begin) < end; off = (off + reads.step) % reads.within {
		if buf := make([]byte, size); !l.ReadLocal(buf, off) {
			if err := l.Fetch(t.Context(), buf, off); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(pause)
	}
}

// TestFillComesAfterTheStart checks that the fill begins when a start is over, with and without a trace, and
// before that only where reads lie together.
func TestFillComesAfterTheStart(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 150<<20)})
	layer := fx.Layers()[0]
	fast, slow := 500*time.Microsecond, 25*time.Millisecond
	for name, test := range map[string]struct {
		perBlock time.Duration
		trace    bool
		guessed  bool
		reads    time.Duration // for how long they go on
		pause    time.Duration // between two reads
		of       reads
		earliest time.Duration // the fill may begin
		latest   time.Duration
	}{
		"trace":                       {fast, true, false, 3 * time.Second, 100 * time.Millisecond, ofTrace, 5 * time.Second, 6 * time.Second},
		"trace, reads without an end": {fast, true, false, time.Minute, 100 * time.Millisecond, ofTrace, 30 * time.Second, 31 * time.Second},
		"a guess, reads together":     {fast, true, true, 3 * time.Second, 100 * time.Millisecond, ofTrace, 1500 * time.Millisecond, 3 * time.Second},
		"a guess, slow":               {slow, true, true, 3 * time.Second, 100 * time.Millisecond, ofTrace, 4900 * time.Millisecond, 6 * time.Second},
		"no trace, fast":              {fast, false, false, 3 * time.Second, 100 * time.Millisecond, scattered, 4900 * time.Millisecond, 6 * time.Second},
		"no trace, slow":              {slow, false, false, 3 * time.Second, 100 * time.Millisecond, scattered, 4900 * time.Millisecond, 6 * time.Second},
		"nobody reads, and no trace":  {slow, false, false, 0, 100 * time.Millisecond, scattered, 2 * time.Second, 3 * time.Second},
		"nobody reads, and a trace":   {slow, true, false, 0, 100 * time.Millisecond, ofTrace, 2 * time.Second, 4 * time.Second},
		"no trace, slow, without end": {slow, false, false, time.Minute, 100 * time.Millisecond, small, 30 * time.Second, 31 * time.Second},
		"reads together":              {fast, false, false, 3 * time.Second, 100 * time.Millisecond, together, 1500 * time.Millisecond, 3 * time.Second},
		"reads together, slow":        {slow, false, false, 5 * time.Second, 100 * time.Millisecond, together, 1500 * time.Millisecond, 5 * time.Second},
		"everything is read":          {fast, true, false, time.Minute, 10 * time.Millisecond, ofTrace, 5 * time.Second, 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				line := newTimeline(newSlowLink(fx, 10*time.Millisecond, test.perBlock))
				r := newReader(t, stream.Config{Source: line, ReadAhead: -1})
				image := open(r, layer)
				cfg := stream.FillConfig{Predicted: test.guessed}
				if test.trace {
					cfg.Trace = []block.Range{{Layer: layer.ID, First: 0, Count: 64}}
				}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { _ = r.NewFiller([]*stream.Layer{image}, cfg).Run(ctx) }) //nolint:errcheck // it is cancelled
				if test.reads > 0 {
					readUntil(t, image, line.begin, test.reads, test.pause, test.of)
				}
				<-time.After(5 * time.Second)
				cancel()
				wg.Wait()
				times := line.times(block.ClassFill)
				if len(times) == 0 || times[0] < test.earliest || times[0] > test.latest {
					t.Errorf("requests of the fill at %v, want the first from %s to %s", times[:min(len(times), 3)], test.earliest, test.latest)
				}
			})
		})
	}
}

// TestFillComesAfterABundledStart checks that a start whose trace somebody else has loaded counts as one
// with a trace.
func TestFillComesAfterABundledStart(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 150<<20)})
	layer := fx.Layers()[0]
	synctest.Test(t, func(t *testing.T) {
		line := newTimeline(newSlowLink(fx, 10*time.Millisecond, 500*time.Microsecond))
		r := newReader(t, stream.Config{Source: line, ReadAhead: -1})
		ctx, cancel := context.WithCancel(t.Context())
		loaded := make(chan struct{})
		close(loaded)
		cfg := stream.FillConfig{StartReads: []block.Range{{Layer: layer.ID, First: 0, Count: 64}}, WaitFor: loaded}
		image := open(r, layer)
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.NewFiller([]*stream.Layer{image}, cfg).Run(ctx) }) //nolint:errcheck // it is cancelled
		begin, buf := time.Now(), make([]byte, 2*block.Size)
		for off := int64(0); time.Since(begin) < 3*time.Second; off = (off + 2*block.Size) % (16 << 20) {
			if !image.ReadLocal(buf, off) {
				if err := image.Fetch(t.Context(), buf, off); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(100 * time.Millisecond)
		}
		<-time.After(5 * time.Second)
		cancel()
		wg.Wait()
		if times := line.times(block.ClassFill); len(times) == 0 || times[0] < 5*time.Second {
			t.Errorf("requests of the fill at %v, want the first after 5 s", times[:min(len(times), 3)])
		}
	})
}

// TestFillWaitsForOtherStarts checks that one image is not filled while another one starts.
func TestFillWaitsForOtherStarts(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(
		blocktest.Layer{Name: "a", Data: blocktest.Random(1, 100<<20)},
		blocktest.Layer{Name: "b", Data: blocktest.Random(2, 100<<20)},
	)
	synctest.Test(t, func(t *testing.T) {
		line := newTimeline(newSlowLink(fx, 10*time.Millisecond, 25*time.Millisecond))
		r := newReader(t, stream.Config{Source: line, ReadAhead: -1})
		filled, starts := open(r, fx.Layers()[0]), open(r, fx.Layers()[1])
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.NewFiller([]*stream.Layer{filled}, stream.FillConfig{}).Run(ctx) }) //nolint:errcheck // it is cancelled
		<-time.After(4 * time.Second)
		begun := time.Since(line.begin)
		f := r.NewFiller([]*stream.Layer{starts}, stream.FillConfig{OnlyTrace: true, Trace: []block.Range{{Layer: starts.ID(), First: 0, Count: 200}}})
		if err := f.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended := time.Since(line.begin)
		<-time.After(4 * time.Second)
		cancel()
		wg.Wait()
		var before, during, after int
		for _, at := range line.times(block.ClassFill) {
			switch {
			case at <= begun:
				before++
			case at <= ended:
				during++
			default:
				after++
			}
		}
		if before == 0 || during > 0 || after == 0 {
			t.Errorf("%d requests of the fill before the start of another image, %d during it, %d after", before, during, after)
		}
	})
}

// TestStartLeavesItsTrace checks that what is left of a trace is not loaded when the start reads
// other things, and that it is when only some reads are of others.
func TestStartLeavesItsTrace(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(
		blocktest.Layer{Name: "a", Data: blocktest.Random(1, 100<<20)},
		blocktest.Layer{Name: "b", Data: blocktest.Random(2, 100<<20)},
	)
	traced, other := fx.Layers()[0], fx.Layers()[1]
	for name, test := range map[string]struct {
		others int // of four reads
		all    bool
	}{"it leaves": {4, false}, "it mostly leaves": {3, true}, "it follows": {1, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				kept := newKeeper(newSlowLink(fx, time.Millisecond, 10*time.Millisecond))
				r := newReader(t, stream.Config{Source: kept, Local: kept, ReadAhead: -1})
				a, b := open(r, traced), open(r, other)
				f := r.NewFiller([]*stream.Layer{a, b}, stream.FillConfig{OnlyTrace: true, Trace: []block.Range{{Layer: traced.ID, First: 0, Count: 400}}})
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := f.Run(t.Context()); err != nil {
						t.Error(err)
					}
				})
				buf := make([]byte, 4096)
				for i := range int64(80) {
					layer := a
					if int(i%4) < test.others {
						layer = b
					}
					if off := i * block.Size; !layer.ReadLocal(buf, off) {
						if err := layer.Fetch(t.Context(), buf, off); err != nil {
							t.Fatal(err)
						}
					}
				}
				wg.Wait()
				if all := kept.Has(block.Key{Layer: traced.ID, Index: 399}); all != test.all {
					t.Errorf("the whole trace was loaded: %v", all)
				}
			})
		})
	}
}
