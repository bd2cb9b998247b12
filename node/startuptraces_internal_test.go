package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

func imageID(name string) block.Digest { return block.Sum([]byte(name)) }

// TestStartShare checks which start-up sets are pinned when not all of them fit.
func TestStartShare(t *testing.T) {
	t.Parallel()
	disk, err := cache.OpenDisk(cache.DiskConfig{Dir: filepath.Join(t.TempDir(), "cache"), Layout: newLayerIndexes()})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close() //nolint:errcheck // nothing is in it
	dir := filepath.Join(t.TempDir(), "traces")
	cfg := Config{CacheBytes: 20 * block.Size, CacheFiles: 6 * cache.LayerFiles, Log: slog.New(slog.DiscardHandler)}
	open := func() *startupTraces {
		s, err := openStartupTraces(dir, cfg, disk)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	check := func(s *startupTraces, want ...string) {
		t.Helper()
		var got []string
		for _, name := range []string{"old", "mid", "new", "long", "wide"} {
			if s.pins(imageID(name)) {
				got = append(got, name)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pinned start-up sets:\n%s", diff)
		}
	}
	s := open()
	age := time.Hour
	addTrace := func(name string, layers int, blocks uint32) {
		var read startup.Trace
		for i := range layers {
			read = append(read, startup.Span{Layer: block.Sum([]byte{byte(i)}), Length: int64(blocks) * block.Size})
		}
		s.addTrace(recordedStart{id: imageID(name), Sample: startup.Sample{Trace: read}})
		// Clocks of filesystems are coarse, and this is how old the next process finds it.
		age -= time.Minute
		then := time.Now().Add(-age)
		s.images[imageID(name)].last = then
		if err := os.Chtimes(s.path(imageID(name)), then, then); err != nil {
			t.Fatal(err)
		}
	}
	addTrace("old", 1, 4)
	addTrace("mid", 1, 3)
	check(s, "old", "mid")
	addTrace("long", 1, 11) // alone more than half of the cache
	check(s, "old", "mid")
	addTrace("wide", 4, 1) // alone of more than half of the layers
	check(s, "old", "mid")
	addTrace("new", 2, 2)
	check(s, "mid", "new")
	check(open(), "mid", "new")
	s = open()
	s.addTrace(recordedStart{id: imageID("old"), Sample: startup.Sample{Trace: startup.Trace{{Layer: block.Sum([]byte{0}), Length: startup.PageSize}}}}) // nothing new, but started again
	check(s, "old", "new")
	s.retain(func(id block.Digest) bool { return id != imageID("new") })
	check(s, "old", "mid")
	if read := s.of(imageID("new"), block.Digest{}); len(read) != 2 { // it is pulled again
		t.Errorf("the trace of an image that was removed: %v", read)
	}
	check(s, "old", "new")
	// A prefetch list is a part of the set, and is pinned or not with it.
	list := block.Range{Layer: block.Sum([]byte{0}), First: 100, Count: 2}
	s.setList(imageID("new"), []block.Range{list})
	check(s, "old", "new")
	s.setList(imageID("mid"), []block.Range{list})
	s.retain(func(id block.Digest) bool { return id == imageID("mid") })
	check(s, "mid")
	if set := s.images[imageID("mid")].set; len(set) != 2 || set[0] != list {
		t.Errorf("the set with a list: %v", set)
	}
	s.setList(imageID("mid"), []block.Range{{Layer: list.Layer, First: 100, Count: 9}}) // with which it has more than half of the cache
	check(s)
	s.setList(imageID("mid"), nil)
	check(s, "mid")
}

// TestWhenAStartIsOver checks which reads belong to a start.
func TestWhenAStartIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		learnt, early := make(map[block.Digest]startup.Trace), make(map[block.Digest]bool)
		l := newTraceRecorders(func(start recordedStart) {
			learnt[start.id], early[start.id] = start.Trace, start.endedEarly
		}, 0)
		const page = startup.PageSize
		read := func(layer string, first, count int64) { l.note(imageID(layer), first*page, count*page) }
		span := func(layer string, off, n int64) startup.Span {
			return startup.Span{Layer: imageID(layer), Offset: off, Length: n}
		}
		wait := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		begin := func(m *Mount, image string, layers ...string) {
			ids := make([]block.Digest, len(layers))
			for i, layer := range layers {
				ids[i] = imageID(layer)
			}
			l.begin(m, recordedStart{id: imageID(image), manifest: imageID(image + " manifest")}, ids)
		}
		usual, late, unmounted, long := new(Mount), new(Mount), new(Mount), new(Mount)
		read("base", 9, 1) // nothing is being started
		begin(usual, "usual", "base", "usual")
		begin(late, "late", "late")
		begin(unmounted, "unmounted", "base", "unmounted")
		wait(50 * time.Second)
		read("usual", 5, 1)
		read("base", 3, 2)
		read("another", 0, 1)
		if current := l.current(traceHint(imageID("usual manifest"))); len(current) != 2 {
			t.Errorf("what peers are told of a start under way: %v", current)
		}
		l.end(unmounted, true)
		l.end(unmounted, true)
		wait(20 * time.Second)
		read("late", 0, 1)
		read("base", 0, 1)
		wait(11 * time.Second)
		read("usual", 6, 1)
		begin(long, "long", "long")
		read("long", 0, startup.MaxBlocks*block.Size/page+1)
		wait(0)
		want := map[block.Digest]startup.Trace{
			imageID("usual"):     {span("usual", 5*page, page), span("base", 3*page, 2*page), span("base", 0, page)},
			imageID("late"):      nil,
			imageID("unmounted"): {span("base", 3*page, 2*page)},
			imageID("long"):      {span("long", 0, startup.MaxBlocks*block.Size)},
		}
		if diff := cmp.Diff(want, learnt); diff != "" {
			t.Errorf("what was learnt:\n%s", diff)
		}
		if diff := cmp.Diff(map[block.Digest]bool{imageID("usual"): false, imageID("late"): false, imageID("unmounted"): true, imageID("long"): false}, early); diff != "" {
			t.Errorf("which starts ended early:\n%s", diff)
		}
		if l.open.Load() != 0 || len(l.all) != 0 {
			t.Errorf("%d starts are still watched", len(l.all))
		}
	})
}

// TestTracesAreBounded checks which traces go when there are too many.
func TestTracesAreBounded(t *testing.T) {
	t.Parallel()
	disk, err := cache.OpenDisk(cache.DiskConfig{Dir: filepath.Join(t.TempDir(), "cache"), Layout: newLayerIndexes()})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close() //nolint:errcheck // nothing is in it
	s, err := openStartupTraces(filepath.Join(t.TempDir(), "traces"), Config{Log: slog.New(slog.DiscardHandler)}, disk)
	if err != nil {
		t.Fatal(err)
	}
	addTrace := func(name string) {
		s.addTrace(recordedStart{id: imageID(name), manifest: imageID(name), Sample: startup.Sample{Trace: startup.Trace{{Length: startup.PageSize}}}})
	}
	check := func(want ...string) {
		t.Helper()
		for _, name := range []string{"a", "b", "c", "d"} {
			kept := slices.Contains(want, name)
			_, err := os.Stat(s.path(imageID(name)))
			if s.has(imageID(name)) != kept || (err == nil) != kept || (s.hint(traceHint(imageID(name))) != nil) != kept {
				t.Errorf("trace %q: known %v, %v, want %v", name, s.has(imageID(name)), err, kept)
			}
		}
	}
	s.maxTraces = 2
	addTrace("a")
	addTrace("b")
	addTrace("c")
	check("b", "c")
	s.retain(func(id block.Digest) bool { return id == imageID("b") })
	addTrace("d") // c was started later than b, but is not on this machine any more
	check("b", "d")
	s.maxTraces, s.maxBytes = 10, s.images[imageID("d")].size
	addTrace("a")
	check("a")
}
