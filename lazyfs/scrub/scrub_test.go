package scrub_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/lazyfs/scrub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const week = 7 * 24 * time.Hour

// setting is a full cache and a scrubber for it.
type setting struct {
	fx       *blocktest.Fixture
	disk     *cache.Disk
	upstream *blocktest.Source
	scrubber *scrub.Scrubber
	cfg      scrub.Config

	mu     sync.Mutex
	opened []block.Digest
	mended []block.Key
}

func newSetting(t *testing.T, dir string, fx *blocktest.Fixture) *setting {
	t.Helper()
	s := &setting{fx: fx, upstream: blocktest.NewSource(fx)}
	var err error
	s.disk, err = cache.OpenDisk(cache.DiskConfig{
		Dir: dir, Layout: fx,
		OnComplete: func(id block.Digest) { s.scrubber.Complete(id) },
		OnCorrupt:  func(c cache.CorruptBlock) { s.scrubber.Report(c) },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.cfg = scrub.Config{
		Disk: s.disk, Source: source.ReadThrough(s.disk, s.upstream, source.ReadThroughConfig{}), Path: filepath.Join(dir, "scrub.json"), Interval: week,
		Open: func(_ context.Context, layer block.Digest) (scrub.Layer, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.opened = append(s.opened, layer)
			return scrub.Layer{Images: []string{"app"}, Release: func() {}}, nil
		},
		DropPages: func(_ context.Context, k block.Key, right []byte) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			if right != nil {
				s.mended = append(s.mended, k)
			}
			return false
		},
	}
	if s.scrubber, err = scrub.New(s.cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs the scrubber until stop is called.
func (s *setting) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.scrubber.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func (s *setting) fill(t *testing.T) {
	t.Helper()
	for k := range s.fx.Keys() {
		if err := s.disk.Put(t.Context(), k, s.fx.Content(k)); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *setting) close(t *testing.T) {
	t.Helper()
	if err := s.disk.Close(); err != nil {
		t.Error(err)
	}
}

func (s *setting) flip(t *testing.T, k block.Key) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(s.disk.Dir(), "layers", k.Layer.Hex(), "data"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	content := append([]byte(nil), s.fx.Content(k)[:10]...)
	content[3] ^= 1
	_, err = f.WriteAt(content, k.Offset())
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func two() *blocktest.Fixture {
	return blocktest.New(
		blocktest.Layer{Name: "old", Data: blocktest.Random(1, 3*block.ExtentSize+100)},
		blocktest.Layer{Name: "new", Data: blocktest.Random(2, 2*block.ExtentSize)})
}

// Everything is read within a week, what was used last first, and again the week after.
func TestPassFindsAndMendsRot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetting(t, t.TempDir(), two())
		defer s.close(t)
		s.fill(t)
		layers := s.fx.Layers()
		for _, l := range layers { // the second one is used last
			if _, err := s.disk.ReadAt(l.ID, make([]byte, 10), 0); err != nil {
				t.Fatal(err)
			}
		}
		bad := layers[0].Range().Key(20)
		stop := s.run(t)
		defer stop()
		<-time.After(time.Hour) // they have been read back as complete layers
		s.mu.Lock()
		s.opened = nil
		s.mu.Unlock()
		if err := s.scrubber.Start(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		<-time.After(time.Hour)
		s.mu.Lock()
		if len(s.opened) != 2 || s.opened[0] != layers[1].ID {
			t.Errorf("layers were read in the order %v", s.opened)
		}
		s.mu.Unlock()
		s.flip(t, bad)
		<-time.After(week + time.Hour)
		status := s.scrubber.Status()
		if status.FoundBlocks != 1 || status.RepairedBlocks != 1 || len(status.Corrupt) != 1 || !status.Corrupt[0].Repaired || status.Suspect != "" {
			t.Errorf("after a week: %+v", status)
		}
		if _, err := blocktest.Fetch(t.Context(), t, s.fx, s.disk, layers[0].Range()); err != nil {
			t.Error(err)
		}
	})
}

// Rot that comes back at the same place makes the disk suspect, over restarts too, until
// somebody says that it is trusted.
func TestRotThatComesBackMakesTheDiskSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newSetting(t, dir, two())
		s.fill(t)
		bad := s.fx.Largest().Range().Key(7)
		stop := s.run(t)
		for i := range 2 {
			if s.scrubber.Suspect() != "" {
				t.Errorf("suspect after %d times", i)
			}
			s.flip(t, bad)
			if err := s.scrubber.Start(); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Hour)
		}
		stop()
		s.close(t)
		s = newSetting(t, dir, s.fx)
		defer s.close(t)
		if s.scrubber.Suspect() == "" || s.scrubber.Status().RepairedBlocks != 2 {
			t.Errorf("after a restart: %+v", s.scrubber.Status())
		}
		if err := s.scrubber.Trust(); err != nil || s.scrubber.Suspect() != "" {
			t.Errorf("it is not trusted: %v", err)
		}
	})
}

// While the registry is down the block is missing, not wrong, and nothing is lost.
func TestRepairWaitsForTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newSetting(t, dir, two())
		s.fill(t)
		l := s.fx.Largest()
		bad := l.Range().Key(7)
		_, release, err := s.disk.Pin(l.ID)
		if err != nil {
			t.Fatal(err)
		}
		s.flip(t, bad)
		s.upstream.Drop(bad)
		stop := s.run(t)
		if err := s.scrubber.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		status := s.scrubber.Status()
		if len(status.Corrupt) != 1 || status.Corrupt[0].Repaired || !status.Corrupt[0].DirectlyMounted || status.Corrupt[0].Error == "" {
			t.Errorf("while the source is down: %+v", status)
		}
		if n, err := s.disk.ReadAt(l.ID, make([]byte, 10), bad.Offset()); n > 0 || !errors.Is(err, block.ErrNotFound) {
			t.Errorf("read %d bytes, error %v", n, err)
		}
		stop()
		release()
		s.close(t)
		s = newSetting(t, dir, s.fx) // the source is back, in the next process
		defer s.close(t)
		defer s.run(t)()
		<-time.After(2 * time.Hour)
		if got := s.scrubber.Status(); len(got.Corrupt) != 1 || !got.Corrupt[0].Repaired || len(s.mended) != 1 {
			t.Errorf("after it is back: %+v", got)
		}
		if _, err := blocktest.Fetch(t.Context(), t, s.fx, s.disk, l.Range()); err != nil {
			t.Error(err)
		}
	})
}

// A pass goes on where the process before has left it, and stops while it is paused.
func TestPassPausesAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newSetting(t, dir, two())
		s.fill(t)
		stop := s.run(t)
		<-time.After(25 * time.Minute) // well before the end of the pass
		if err := s.scrubber.Pause(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		before := s.scrubber.Status()
		if !before.Running || !before.Paused || before.CheckedBytes == 0 || before.CheckedBytes == before.TotalBytes {
			t.Errorf("before the restart: %+v", before)
		}
		stop()
		s.close(t)
		s = newSetting(t, dir, s.fx)
		defer s.close(t)
		defer s.run(t)()
		<-time.After(week)
		if got := s.scrubber.Status(); got.CheckedBytes != before.CheckedBytes || !got.Running || !got.Paused {
			t.Errorf("paused: %+v, want %+v", got, before)
		}
		if err := s.scrubber.Resume(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		if got := s.scrubber.Status(); got.LastPass.IsZero() || got.FoundBlocks > 0 {
			t.Errorf("resumed: %+v", got)
		}
	})
}

// A complete layer is read back at once, and whoever observes it sees all of its bytes.
func TestCompleteLayerIsReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetting(t, t.TempDir(), two())
		defer s.close(t)
		seen := make(map[block.Digest]*observer)
		s.cfg.Observe = func(_ context.Context, layer block.Digest) scrub.Observer {
			seen[layer] = &observer{}
			return seen[layer]
		}
		var err error
		if s.scrubber, err = scrub.New(s.cfg); err != nil {
			t.Fatal(err)
		}
		stop := s.run(t)
		s.fill(t)
		<-time.After(time.Minute)
		stop()
		for _, l := range s.fx.Layers() {
			if !s.disk.Proven(l.ID) || seen[l.ID] == nil || !seen[l.ID].whole || block.Sum(seen[l.ID].data) != block.Sum(l.Data) {
				t.Errorf("layer %q was not read back", l.Name)
			}
		}
	})
}

// What was read back before the start is offered to an observer, who may not have seen it,
// and is not read again if nobody wants it.
func TestObserverSeesLayersOfProcessBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetting(t, t.TempDir(), two())
		defer s.close(t)
		stop := s.run(t)
		s.fill(t)
		<-time.After(time.Minute)
		stop()
		wanted, other := s.fx.Layers()[0], s.fx.Layers()[1]
		seen := new(observer)
		s.cfg.Observe = func(_ context.Context, layer block.Digest) scrub.Observer {
			if layer != wanted.ID {
				return nil
			}
			return seen
		}
		s.cfg.Interval, s.opened = 0, nil
		var err error
		if s.scrubber, err = scrub.New(s.cfg); err != nil {
			t.Fatal(err)
		}
		stop = s.run(t)
		<-time.After(time.Minute)
		stop()
		if !seen.whole || block.Sum(seen.data) != block.Sum(wanted.Data) {
			t.Error("the layer was not read back")
		}
		if slices.Contains(s.opened, other.ID) {
			t.Error("a layer that nobody observes was read again")
		}
	})
}

// A wrong block that a mount reads is mended while a long layer is read back.
func TestRepairDoesNotWaitForReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSetting(t, t.TempDir(), two())
		defer s.close(t)
		long, bad := s.fx.Layers()[0], block.Key{Layer: s.fx.Layers()[1].ID}
		seen := &reporting{report: func() { s.scrubber.Report(cache.CorruptBlock{Key: bad, DirectlyMounted: true, BitRot: true}) }}
		seen.mended = func() bool { return s.isMended(bad) }
		s.cfg.Observe = func(_ context.Context, layer block.Digest) scrub.Observer {
			if layer != long.ID {
				return nil
			}
			return seen
		}
		var err error
		if s.scrubber, err = scrub.New(s.cfg); err != nil {
			t.Fatal(err)
		}
		stop := s.run(t)
		s.fill(t)
		<-time.After(time.Minute)
		stop()
		if seen.blocks != int(block.Count(int64(len(long.Data)))) || seen.after != 1 {
			t.Errorf("it was mended after %d of %d blocks more", seen.after, seen.blocks)
		}
	})
}

func (s *setting) isMended(k block.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.mended, k)
}

// reporting is an observer that reports a wrong block with its first one, and counts those
// that pass before that is mended.
type reporting struct {
	report        func()
	mended        func() bool
	blocks, after int
}

// Write implements [scrub.Observer].
func (r *reporting) Write([]byte) {
	if r.blocks++; r.blocks == 1 {
		r.report()
	}
	if !r.mended() {
		r.after++
	}
}

// Close implements [scrub.Observer].
func (*reporting) Close(bool) {}

type observer struct {
	data  []byte
	whole bool
}

// Write implements [scrub.Observer].
func (o *observer) Write(data []byte) { o.data = append(o.data, data...) }

// Close implements [scrub.Observer].
func (o *observer) Close(whole bool) { o.whole = whole }
