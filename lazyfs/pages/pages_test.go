package pages_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/pages"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

const page, frame = 4096, 64 << 10

// room counts bytes up to a bound.
type room struct {
	bytes atomic.Int64
	bound int64
}

func (r *room) Reserve(n int64) error {
	if r.bytes.Add(n) > r.bound {
		r.bytes.Add(-n)
		return syscall.ENOSPC
	}
	return nil
}

func (r *room) Release(n int64) { r.bytes.Add(-n) }

// sample is a set of every second page of two layers, the second layer first.
type sample struct {
	id      block.Digest
	layout  pages.Layout
	layers  map[block.Digest][]byte
	content []byte
	ids     []block.Digest
}

func newSample(seed byte) *sample {
	s := &sample{id: block.Sum([]byte{seed}), layers: map[block.Digest][]byte{}, layout: pages.Layout{FrameSize: frame}}
	random := rand.NewChaCha8([32]byte{seed})
	for _, n := range []int{100*page + 17, 60 * page} {
		layer := make([]byte, n)
		_, _ = random.Read(layer) //nolint:errcheck // it never fails
		id := block.Sum(layer[:page])
		s.layers[id], s.ids = layer, append(s.ids, id)
	}
	for _, id := range []block.Digest{s.ids[1], s.ids[0]} {
		layer := s.layers[id]
		for off := 0; off < len(layer); off += 2 * page {
			end := min(off+page, len(layer))
			s.layout.Spans = append(s.layout.Spans, pages.Span{Layer: id, Offset: int64(off), Length: int64(end - off)})
			s.content = append(s.content, layer[off:end]...)
		}
	}
	for off := 0; off < len(s.content); off += frame {
		s.layout.Frames = append(s.layout.Frames, pages.Frame{Stored: frame / 2, Digest: block.Sum(s.frame(off / frame))})
	}
	return s
}

func (s *sample) frame(i int) []byte { return s.content[i*frame : min((i+1)*frame, len(s.content))] }

func openStore(t *testing.T, dir string, r *room) *pages.Store {
	t.Helper()
	store, err := pages.OpenStore(pages.Config{Dir: dir, Space: r, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func (s *sample) open(t *testing.T, store *pages.Store) *pages.Set {
	t.Helper()
	set, err := store.Open(s.id, s.layout, true)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func (s *sample) fill(t *testing.T, set *pages.Set, frames ...int) {
	t.Helper()
	for _, i := range frames {
		if err := set.Put(i, s.frame(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *sample) all() []int {
	var all []int
	for i := range s.layout.Frames {
		all = append(all, i)
	}
	return all
}

// check reads everything that the set says is here and returns how many bytes that were.
func (s *sample) check(t *testing.T, set *pages.Set) (here int64) {
	t.Helper()
	for id, layer := range s.layers {
		for off := int64(0); off < int64(len(layer)); {
			n, state := set.Locate(id, off, int64(len(layer))-off)
			if n <= 0 {
				t.Fatalf("%d bytes at %d", n, off)
			}
			if state == stream.PagesPresent {
				p := make([]byte, n)
				if err := set.ReadAt(id, p, off); err != nil || !bytes.Equal(p, layer[off:off+n]) {
					t.Fatalf("%d bytes at %d differ: %v", n, off, err)
				}
				here += n
			}
			off += n
		}
	}
	return here
}

func TestSetHasWhatHasArrived(t *testing.T) {
	t.Parallel()
	s := newSample(1)
	set := s.open(t, openStore(t, t.TempDir(), &room{bound: 1 << 20}))
	if got := s.check(t, set); got != 0 || set.Complete() {
		t.Errorf("%d bytes of an empty set", got)
	}
	s.fill(t, set, 2)
	if got := s.check(t, set); got != frame || len(set.Missing()) != len(s.layout.Frames)-1 {
		t.Errorf("%d bytes of a frame, %v missing", got, set.Missing())
	}
	s.fill(t, set, s.all()...)
	if got := s.check(t, set); got != int64(len(s.content)) || !set.Complete() {
		t.Errorf("%d bytes of %d", got, len(s.content))
	}
	p := make([]byte, page+1)
	if err := set.ReadAt(s.ids[0], p, 0); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("reading past a span: %v", err)
	}
	if n, state := set.Locate(block.Sum([]byte("other")), 5, 7); n != 7 || state != stream.PagesAbsent {
		t.Errorf("%d bytes of another layer, state %d", n, state)
	}
}

func TestSetSurvivesItsProcess(t *testing.T) {
	t.Parallel()
	s, dir, r := newSample(1), t.TempDir(), &room{bound: 1 << 20}
	before := openStore(t, dir, r)
	s.fill(t, s.open(t, before), 0, 1, 2)
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, s.id.Hex())
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content[frame+5]++ // bit rot
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "foreign"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	r.bytes.Store(0)
	store := openStore(t, dir, r)
	if r.bytes.Load() != int64(len(s.content)) || store.Bytes() != r.bytes.Load() {
		t.Errorf("%d bytes counted, want %d", r.bytes.Load(), len(s.content))
	}
	if set := store.Get(s.id); set != nil {
		t.Error("a set is open without its layout")
	}
	set, err := store.Open(s.id, s.layout, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.check(t, set); got != 2*frame {
		t.Errorf("%d bytes are served, want two frames that are right", got)
	}
	s.fill(t, set, set.Missing()...)
	if got := s.check(t, set); got != int64(len(s.content)) {
		t.Errorf("%d bytes once it is complete", got)
	}
	// With another layout it is of no use.
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	other := newSample(2)
	other.layout.Spans, other.layout.Frames = other.layout.Spans[:16], other.layout.Frames[:1]
	r.bytes.Store(0)
	if _, err := openStore(t, dir, r).Open(s.id, other.layout, false); err == nil || r.bytes.Load() != 0 {
		t.Errorf("a file of another length: %v, %d bytes counted", err, r.bytes.Load())
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestRoomIsGivenBack(t *testing.T) {
	t.Parallel()
	a, b, c := newSample(1), newSample(2), newSample(3)
	size := int64(len(a.content))
	r := &room{bound: 2*size + page}
	store := openStore(t, t.TempDir(), r)
	first, second := a.open(t, store), b.open(t, store)
	a.fill(t, first, a.all()...)
	b.fill(t, second, b.all()...)
	if _, err := store.Open(c.id, c.layout, true); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a set without room: %v", err)
	}
	if freed := store.Evict(1, time.Hour); freed != 0 {
		t.Errorf("%d bytes in use were given up", freed)
	}
	a.check(t, first) // it is used last
	if freed := store.Evict(1, 0); freed != size || store.Get(b.id) != nil || store.Get(a.id) != first {
		t.Errorf("%d bytes given up", freed)
	}
	if got := b.check(t, second); got != 0 {
		t.Errorf("%d bytes of a set that was given up", got)
	}
	if err := second.Put(0, b.frame(0)); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("a frame for a set that was given up: %v", err)
	}
	if err := store.Maintain(holder(false)); err != nil || store.Get(a.id) == nil {
		t.Errorf("a set whose blocks are not cached was removed: %v", err)
	}
	if err := store.Maintain(holder(true)); err != nil || store.Get(a.id) != nil {
		t.Errorf("a set whose blocks are cached is kept: %v", err)
	}
	c.open(t, store)
	if err := store.Retain(func(id block.Digest) bool { return id != c.id }); err != nil || r.bytes.Load() != 0 || store.Bytes() != 0 {
		t.Errorf("%d bytes are counted in the end: %v", r.bytes.Load(), err)
	}
}

// holder has all blocks or none.
type holder bool

func (h holder) Has(block.Key) bool { return bool(h) }

// TestReadWaitsForTheFasterWay lets frames arrive every 100 ms.
func TestReadWaitsForTheFasterWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSample(1)
		set := s.open(t, openStore(t, t.TempDir(), &room{bound: 1 << 20}))
		last := s.layout.Spans[len(s.layout.Spans)-1]
		if set.Await(t.Context(), last.Layer, last.Offset, time.Hour) {
			t.Error("what is not on its way has arrived")
		}
		end := set.BeginDownload()
		if _, state := set.Locate(last.Layer, last.Offset, last.Length); state != stream.PagesDownloading {
			t.Errorf("state %d while it is on its way", state)
		}
		start := time.Now()
		if set.Await(t.Context(), last.Layer, last.Offset, 0) || time.Since(start) > 3*time.Second {
			t.Errorf("waited %v for a load that does not move", time.Since(start))
		}
		end()
		end = set.BeginDownload()
		go func() {
			defer end()
			for i := range s.layout.Frames {
				<-time.After(100 * time.Millisecond)
				if err := set.Put(i, s.frame(i)); err != nil {
					t.Error(err)
				}
			}
		}()
		<-time.After(150 * time.Millisecond) // one frame has arrived
		start = time.Now()
		if set.Await(t.Context(), last.Layer, last.Offset, 50*time.Millisecond) || time.Since(start) != 0 {
			t.Errorf("waited %v though a fetch takes 50ms", time.Since(start))
		}
		start = time.Now()
		if !set.Await(t.Context(), last.Layer, last.Offset, 10*time.Second) || time.Since(start) > 500*time.Millisecond {
			t.Errorf("gave up after %v though a fetch takes 10s", time.Since(start))
		}
		synctest.Wait()
		if got := s.check(t, set); got != int64(len(s.content)) {
			t.Errorf("%d bytes in the end", got)
		}
	})
}
