package blocktest

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
)

// OpenSource returns a source that holds every block of the fixture and nothing
// else. The suite calls it once for each of its tests. What has to be closed is
// closed with t.Cleanup.
type OpenSource func(t *testing.T, fx *Fixture) block.Source

// TestSource checks that a source keeps to the contract of [block.Source].
func TestSource(t *testing.T, fx *Fixture, open OpenSource) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(t *testing.T, fx *Fixture, src block.Source)
	}{
		{"WholeLayers", testWholeLayers},
		{"SingleBlocks", testSingleBlocks},
		{"SubRanges", testSubRanges},
		{"PastEnd", testPastEnd},
		{"UnknownLayer", testUnknownLayer},
		{"EmptyRange", testEmptyRange},
		{"SinkError", testSinkError},
		{"ContextEndedBefore", testContextEndedBefore},
		{"ContextEndsDuring", testContextEndsDuring},
		{"EveryClass", testEveryClass},
		{"Concurrent", testConcurrent},
		{"SlowSink", testSlowSink},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, fx, open(t, fx))
		})
	}
}

func mustFetch(t *testing.T, fx *Fixture, src block.Source, r block.Range) {
	t.Helper()
	if _, err := Fetch(t.Context(), t, fx, src, r); err != nil {
		t.Errorf("fetch of %s: %v", r, err)
	}
}

func testWholeLayers(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	for _, l := range fx.Layers() {
		mustFetch(t, fx, src, l.Range())
	}
}

func testSingleBlocks(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	for k := range fx.Keys() {
		mustFetch(t, fx, src, block.Range{Layer: k.Layer, First: k.Index, Count: 1})
	}
}

func testSubRanges(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	for _, l := range fx.Layers() {
		all := l.Range()
		for first := uint32(0); first < all.Count; first += 3 {
			for _, count := range []uint32{2, 5, block.ExtentBlocks} {
				if first+count <= all.Count {
					mustFetch(t, fx, src, block.Range{Layer: l.ID, First: first, Count: count})
				}
			}
		}
	}
}

func testPastEnd(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	for _, l := range fx.Layers() {
		end := l.Range().Count
		first := end - min(end, 2)
		for _, r := range []block.Range{
			{Layer: l.ID, First: first, Count: end - first + 1},
			{Layer: l.ID, First: first, Count: 1 << 17},
			{Layer: l.ID, First: end, Count: 1},
			{Layer: l.ID, First: end + 100, Count: 100},
			{Layer: l.ID, First: math.MaxUint32, Count: 1},
			{Layer: l.ID, First: math.MaxUint32, Count: 2},
		} {
			c := newCollector(t, fx, r)
			requireNotFound(t, r, c.fetch(t.Context(), src))
			want := 0
			if r.First < end {
				want = int(end - r.First)
			}
			if got := c.asked(); got != want {
				t.Errorf("fetch of %s, of a layer of %d blocks, delivered %d blocks of the range, want %d", r, end, got, want)
			}
		}
	}
}

func requireNotFound(t *testing.T, r block.Range, err error) {
	t.Helper()
	if !errors.Is(err, block.ErrNotFound) {
		t.Errorf("fetch of %s: error is %v, want one wrapping %v", r, err, block.ErrNotFound)
	}
}

func testUnknownLayer(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	for _, layer := range []block.Digest{{}, block.Sum([]byte("no such layer"))} {
		r := block.Range{Layer: layer, Count: 2}
		_, err := Fetch(t.Context(), t, fx, src, r)
		requireNotFound(t, r, err)
	}
}

func testEmptyRange(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	layers := []block.Digest{block.Sum([]byte("no such layer"))}
	for _, l := range fx.Layers() {
		layers = append(layers, l.ID)
	}
	for _, layer := range layers {
		for _, first := range []uint32{0, 3, math.MaxUint32} {
			r := block.Range{Layer: layer, First: first}
			got, err := Fetch(t.Context(), t, fx, src, r)
			if err != nil {
				t.Errorf("fetch of the empty range %s from block %d: %v", r, first, err)
			}
			if len(got) > 0 {
				t.Errorf("fetch of the empty range %s from block %d delivered %d blocks", r, first, len(got))
			}
		}
	}
}

func testSinkError(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	l := fx.Largest()
	for _, after := range []int{1, 2, int(l.Range().Count)} {
		sinkErr := errors.New("sink has had enough")
		c := newCollector(t, fx, l.Range())
		c.then = func(block.Key) error {
			if c.asked() >= after {
				return sinkErr
			}
			return nil
		}
		if err := c.fetch(t.Context(), src); err != sinkErr { //nolint:errorlint // the contract says: as it is
			t.Errorf("sink failed after %d blocks: fetch returned %v, want the error of the sink as it is", after, err)
		}
	}
	mustFetch(t, fx, src, l.Range())
}

func testContextEndedBefore(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	cause := errors.New("test ends the context")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	r := fx.Largest().Range()
	if _, err := Fetch(ctx, t, fx, src, r); !errors.Is(err, cause) {
		t.Errorf("fetch of %s with a context that had ended: error is %v, want one wrapping the cause", r, err)
	}
	mustFetch(t, fx, src, r)
}

// testContextEndsDuring ends the context in the middle of a delivery. A source
// may have had everything at hand by then, so complete delivery is right as well.
func testContextEndsDuring(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	r := fx.Largest().Range()
	for _, after := range []int{1, 3} {
		cause := errors.New("test ends the context")
		ctx, cancel := context.WithCancelCause(t.Context())
		c := newCollector(t, fx, r)
		c.then = func(block.Key) error {
			if c.asked() == after {
				cancel(cause)
			}
			return nil
		}
		if err := c.fetch(ctx, src); err != nil && !errors.Is(err, cause) {
			t.Errorf("context ended after %d blocks: error is %v, want one wrapping the cause", after, err)
		}
		cancel(nil)
	}
	mustFetch(t, fx, src, r)
}

func testEveryClass(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	for _, class := range []block.Class{block.ClassRead, block.ClassHead, block.ClassTail, block.ClassFill} {
		c := newCollector(t, fx, fx.Largest().Range())
		c.req.Class = class
		if err := c.fetch(t.Context(), src); err != nil {
			t.Errorf("fetch of %s for class %s: %v", c.req.Range, class, err)
		}
	}
}

// testConcurrent runs overlapping fetches at once, some of which give up.
func testConcurrent(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for j, l := range fx.Layers() {
				r := l.Range()
				r.First += uint32((i + j) % 3)
				r.Count -= min(r.Count, r.First)
				c := newCollector(t, fx, r)
				sinkErr := errors.New("sink gives up")
				if i%4 == 3 {
					c.then = func(block.Key) error { return sinkErr }
				}
				err := c.fetch(t.Context(), src)
				if err != nil && !errors.Is(err, sinkErr) {
					t.Errorf("concurrent fetch of %s: %v", r, err)
				}
			}
		})
	}
	wg.Wait()
}

// testSlowSink holds one fetch up in its sink until another fetch of the same
// blocks is complete.
func testSlowSink(t *testing.T, fx *Fixture, src block.Source) {
	t.Helper()
	r := fx.Largest().Range()
	c := newCollector(t, fx, r)
	other := sync.OnceFunc(func() { mustFetch(t, fx, src, r) })
	c.then = func(block.Key) error {
		other()
		return nil
	}
	if err := c.fetch(t.Context(), src); err != nil {
		t.Errorf("fetch of %s with a slow sink: %v", r, err)
	}
}
