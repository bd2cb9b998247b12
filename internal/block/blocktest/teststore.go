package blocktest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
)

// OpenStore returns an empty store with room for all blocks of the fixture. The
// suite calls it once for each of its tests. What has to be closed is closed with
// t.Cleanup.
type OpenStore func(t *testing.T, fx *Fixture) block.Store

// TestStore checks that a store keeps to the contracts of [block.Store] and
// [block.Source], and to that of [block.Holder] if it implements it.
func TestStore(t *testing.T, fx *Fixture, open OpenStore) {
	t.Helper()
	TestSource(t, fx, func(t *testing.T, fx *Fixture) block.Source {
		t.Helper()
		s := open(t, fx)
		for k := range fx.Keys() {
			mustPut(t, s, k, fx.Content(k))
		}
		return s
	})
	for _, test := range []struct {
		name string
		run  func(t *testing.T, fx *Fixture, s block.Store)
	}{
		{"Empty", testEmpty},
		{"PutThenFetch", testPutThenFetch},
		{"PartlyHeld", testPartlyHeld},
		{"PutDoesNotKeepData", testPutDoesNotKeepData},
		{"PutTwice", testPutTwice},
		{"PutWhileFetching", testPutWhileFetching},
		{"PutFromSink", testPutFromSink},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t, fx, open(t, fx))
		})
	}
}

func mustPut(t *testing.T, s block.Store, k block.Key, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), k, data); err != nil {
		t.Fatalf("put of block %s: %v", k, err)
	}
}

// requireHas compares what the store says it holds, if it says so at all.
func requireHas(t *testing.T, s block.Store, k block.Key, want bool) {
	t.Helper()
	if h, ok := s.(block.Holder); ok && h.Has(k) != want {
		t.Errorf("store says %t of holding block %s, want %t", !want, k, want)
	}
}

func testEmpty(t *testing.T, fx *Fixture, s block.Store) {
	t.Helper()
	for k := range fx.Keys() {
		r := block.Range{Layer: k.Layer, First: k.Index, Count: 1}
		got, err := Fetch(t.Context(), t, fx, s, r)
		requireNotFound(t, r, err)
		if len(got) > 0 {
			t.Errorf("empty store delivered %d blocks", len(got))
		}
		requireHas(t, s, k, false)
	}
}

func testPutThenFetch(t *testing.T, fx *Fixture, s block.Store) {
	t.Helper()
	for k := range fx.Keys() {
		requireHas(t, s, k, false)
		mustPut(t, s, k, fx.Content(k))
		requireHas(t, s, k, true)
		mustFetch(t, fx, s, block.Range{Layer: k.Layer, First: k.Index, Count: 1})
	}
}

func testPartlyHeld(t *testing.T, fx *Fixture, s block.Store) {
	t.Helper()
	for k := range fx.Keys() {
		if k.Index%2 == 1 {
			mustPut(t, s, k, fx.Content(k))
		}
	}
	for _, l := range fx.Layers() {
		if l.Range().Count < 2 {
			continue
		}
		c := newCollector(t, fx, l.Range())
		requireNotFound(t, l.Range(), c.fetch(t.Context(), s))
		for k := range keys(l.Range()) {
			if c.got[k] != (k.Index%2 == 1) {
				t.Errorf("block %s: delivered is %t, want %t", k, c.got[k], k.Index%2 == 1)
			}
		}
	}
}

func testPutDoesNotKeepData(t *testing.T, fx *Fixture, s block.Store) {
	t.Helper()
	for k := range fx.Keys() {
		want := fx.Content(k)
		data := slices.Clone(want)
		mustPut(t, s, k, data)
		if !slices.Equal(data, want) {
			t.Errorf("put of block %s modified the data", k)
		}
		for i := range data {
			data[i] = 0xdb
		}
		mustFetch(t, fx, s, block.Range{Layer: k.Layer, First: k.Index, Count: 1})
	}
}

func testPutTwice(t *testing.T, fx *Fixture, s block.Store) {
	t.Helper()
	r := fx.Largest().Range()
	for range 2 {
		for k := range keys(r) {
			mustPut(t, s, k, fx.Content(k))
		}
	}
	mustFetch(t, fx, s, r)
}

// testPutWhileFetching looks for blocks that are visible half written, and for
// blocks that are not visible at once to the one who has put them.
func testPutWhileFetching(t *testing.T, fx *Fixture, s block.Store) {
	t.Helper()
	r := fx.Largest().Range()
	ctx, cancel := context.WithCancel(t.Context())
	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() { fetchUntilEnd(ctx, t, fx, s) })
	}
	for _, backwards := range []bool{false, true} { // they meet in the middle
		writers.Go(func() {
			for k := range keys(r) {
				if backwards {
					k.Index = r.Count - 1 - k.Index
				}
				if err := s.Put(t.Context(), k, fx.Content(k)); err != nil {
					t.Errorf("put of block %s: %v", k, err)
				}
				mustFetch(t, fx, s, block.Range{Layer: k.Layer, First: k.Index, Count: 1})
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
}

func fetchUntilEnd(ctx context.Context, t *testing.T, fx *Fixture, s block.Store) {
	t.Helper()
	r := fx.Largest().Range()
	for ctx.Err() == nil {
		_, err := Fetch(t.Context(), t, fx, s, r)
		if err != nil && !errors.Is(err, block.ErrNotFound) {
			t.Errorf("fetch of %s while blocks are put: %v", r, err)
		}
	}
}

// testPutFromSink puts a block into the store that is being read, as a chain of
// stores may do.
func testPutFromSink(t *testing.T, fx *Fixture, s block.Store) {
	t.Helper()
	r := fx.Largest().Range()
	for k := range keys(r) {
		mustPut(t, s, k, fx.Content(k))
	}
	c := newCollector(t, fx, r)
	c.then = func(k block.Key) error { return s.Put(t.Context(), k, fx.Content(k)) }
	if err := c.fetch(t.Context(), s); err != nil {
		t.Errorf("fetch of %s with a sink that puts: %v", r, err)
	}
}
