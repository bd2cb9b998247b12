package stream_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

const page = 4096

// somePages has pages of one layer in some state, and no others.
type somePages struct {
	layer  *blocktest.Layer
	arrive bool // pages that are on their way arrive when somebody waits for them

	mu     sync.Mutex
	states map[int64]stream.PageState // by page
	waited int
}

func (s *somePages) Locate(_ block.Digest, off, n int64) (int64, stream.PageState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, end := s.states[off/page], off
	for end < off+n && s.states[end/page] == state {
		end = (end/page + 1) * page
	}
	return min(end, off+n) - off, state
}

func (s *somePages) ReadAt(_ block.Digest, p []byte, off int64) error {
	copy(p, s.layer.Data[off:])
	return nil
}

func (s *somePages) Await(_ context.Context, _ block.Digest, off int64, _ time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waited++
	for i := off / page; s.arrive && s.states[i] == stream.PagesDownloading; i++ {
		s.states[i] = stream.PagesPresent
	}
	return s.arrive
}

// TestPagesAndBlocksTogether reads ranges of which some pages are there, some are on their
// way, and some are only in blocks, a part of which is cached.
func TestPagesAndBlocksTogether(t *testing.T) {
	t.Parallel()
	fx := blocktest.Raw()
	layer := fx.Largest()
	blocks := len(layer.Data) / block.Size
	rng := rand.New(rand.NewPCG(3, 4))
	for round := range 200 {
		src := blocktest.NewSource(fx)
		k := newKeeper(src)
		some := &somePages{layer: layer, arrive: round%2 == 0, states: map[int64]stream.PageState{}}
		wanted := map[uint32]bool{} // blocks that cannot be done without
		off := rng.Int64N(int64(len(layer.Data)) - page)
		p := make([]byte, min(rng.Int64N(1<<20)+1, int64(len(layer.Data))-off))
		for i := range uint32(blocks) {
			if rng.IntN(4) == 0 {
				_ = k.Fetch(t.Context(), block.Request{Range: block.Range{Layer: layer.ID, First: i, Count: 1}}, //nolint:errcheck // it is in memory
					func(block.Key, []byte) error { return nil })
			}
		}
		before := src.Requests()
		state := stream.PagesPresent
		for i := range int64(len(layer.Data)/page) + 1 {
			if rng.IntN(9) == 0 {
				state = stream.PageState(rng.IntN(3))
			}
			some.states[i] = state
			key := block.Key{Layer: layer.ID, Index: uint32(i * page / block.Size)}
			if (i+1)*page > off && i*page < off+int64(len(p)) && !k.Has(key) && (state == stream.PagesAbsent || state == stream.PagesDownloading && !some.arrive) {
				wanted[key.Index] = true
			}
		}
		r := newReader(t, stream.Config{Source: k, Local: k, ReadAhead: -1})
		l := r.Open(layer.ID, int64(len(layer.Data)), some)
		if !l.ReadLocal(p, off) {
			if err := l.Fetch(t.Context(), p, off); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(p, layer.Data[off:off+int64(len(p))]) {
			t.Fatalf("round %d: %d bytes at %d differ", round, len(p), off)
		}
		for _, req := range src.Requests()[len(before):] {
			for i := range req.Count {
				if !wanted[req.Key(i).Index] {
					t.Errorf("round %d: block %d was fetched for %d bytes at %d", round, req.Key(i).Index, len(p), off)
				}
			}
		}
	}
}
