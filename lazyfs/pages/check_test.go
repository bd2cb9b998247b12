package pages_test

import (
	"errors"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/pages"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// block returns a block of a layer of the sample.
func (s *sample) block(layer int, index uint32) (block.Key, []byte) {
	k := block.Key{Layer: s.ids[layer], Index: index}
	all := s.layers[k.Layer]
	return k, all[k.Offset() : k.Offset()+int64(block.Length(int64(len(all)), index))]
}

func TestPagesAreComparedWithBlocks(t *testing.T) {
	t.Parallel()
	dir, r := t.TempDir(), &room{bound: 1 << 30}
	store := openStore(t, dir, r)
	good, lying := newSample(1), newSample(1)
	lying.id = block.Sum([]byte("lying"))
	last := len(lying.content) - 3 // of layer 0, which comes last
	lying.content[last] ^= 1
	goodSet, lyingSet := good.open(t, store), lying.open(t, store)
	k, data := good.block(0, block.Count(int64(len(good.layers[good.ids[0]])))-1)
	if got := store.Differing(k, data); got != nil || lyingSet.Covers(k) || lyingSet.Held() != 0 {
		t.Errorf("before anything has arrived: %v differ, %d bytes are there", got, lyingSet.Held())
	}
	good.fill(t, goodSet, good.all()...)
	lying.fill(t, lyingSet, lying.all()...)
	if !goodSet.Covers(k) || goodSet.Covers(block.Key{Layer: block.Sum(nil)}) || goodSet.Held() != int64(len(good.content)) {
		t.Errorf("the set covers %v: %v, %d bytes are there", k, goodSet.Covers(k), goodSet.Held())
	}
	if first, data := good.block(0, 0); store.Differing(first, data) != nil {
		t.Error("a block in which both are right differs")
	}
	if got := store.Differing(k, data); len(got) != 1 || got[0] != lying.id {
		t.Fatalf("%v differ, want %v", got, lying.id)
	}
	before := r.bytes.Load()
	rejected, err := store.Reject(lying.id)
	if err != nil || rejected != lyingSet || r.bytes.Load() != before-int64(len(lying.content)) {
		t.Errorf("rejected %v, error %v, %d bytes counted of %d", rejected, err, r.bytes.Load(), before)
	}
	if again, err := store.Reject(lying.id); again != nil || err != nil {
		t.Errorf("rejected twice: %v, %v", again, err)
	}
	if _, state := lyingSet.Locate(k.Layer, k.Offset(), 1); state != stream.PagesAbsent {
		t.Error("rejected pages are still there")
	}
	if !rejected.Overlaps(k.Layer, k.Offset(), 2*page) || rejected.Overlaps(k.Layer, page, page) || len(rejected.Layers()) != 2 {
		t.Error("it is not known which pages those were")
	}
	store = openStore(t, dir, &room{bound: 1 << 30}) // the next process
	if _, err := store.Open(lying.id, lying.layout, true); !errors.Is(err, pages.ErrRejected) || !store.Rejected(lying.id) || store.Has(lying.id) {
		t.Errorf("the next process opens it: %v", err)
	}
	set := good.open(t, store)
	if !store.Has(good.id) || set.Held() != int64(len(good.content)) || !set.Covers(k) {
		t.Errorf("the next process has %d bytes of %d", set.Held(), len(good.content))
	}
	if err := store.Retain(func(block.Digest) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if store = openStore(t, dir, &room{bound: 1 << 30}); store.Rejected(lying.id) {
		t.Error("it is remembered although its image is gone")
	}
}

// TestSetsWaitForTheirStart makes room for blocks while a set was never read.
func TestSetsWaitForTheirStart(t *testing.T) {
	t.Parallel()
	dir, r := t.TempDir(), &room{bound: 1 << 30}
	a, b := newSample(1), newSample(2)
	store, err := pages.OpenStore(pages.Config{Dir: dir, Space: r, Spared: int64(len(a.content))})
	if err != nil {
		t.Fatal(err)
	}
	a.open(t, store)
	second := b.open(t, store)
	b.fill(t, second, b.all()...)
	if freed := store.Evict(1<<30, time.Nanosecond); freed != int64(len(a.content)) || store.Get(b.id) != second {
		t.Errorf("%d bytes are freed, and the set made last is there: %v", freed, store.Get(b.id) == second)
	}
	if err := second.ReadAt(b.ids[0], make([]byte, page), 0); err != nil {
		t.Fatal(err)
	}
	if freed := store.Evict(1<<30, time.Nanosecond); freed != int64(len(b.content)) {
		t.Errorf("%d bytes are freed once it was read", freed)
	}
	first := a.open(t, store)
	if freed := store.Evict(1<<30, 0); freed != first.Bytes() {
		t.Errorf("%d bytes are freed when nothing else can be", freed)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}
