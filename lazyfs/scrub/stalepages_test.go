package scrub_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/scrub"
)

// Blocks that programs still see wrong are looked at again until they do not, over restarts
// too; and the page cache gives up what it has before the block is fetched.
func TestStalePagesAreLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newSetting(t, dir, two())
		s.fill(t)
		bad := s.fx.Largest().Range().Key(7)
		var (
			mu     sync.Mutex
			calls  []bool // with the right bytes or without
			mapped = true
		)
		// taken returns the calls since the last time, and sets what the next ones find.
		taken := func(stillMapped bool) []bool {
			mu.Lock()
			defer mu.Unlock()
			got := calls
			calls, mapped = nil, stillMapped
			return got
		}
		drop := func(_ context.Context, k block.Key, right []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, right != nil)
			if k != bad || right != nil && block.Sum(right) != block.Sum(s.fx.Content(bad)) {
				t.Errorf("pages of block %s are dropped, for %d bytes", k, len(right))
			}
			return mapped && right != nil
		}
		begin := func() (stop func()) {
			s.cfg.DropPages, s.cfg.Interval = drop, 0
			var err error
			if s.scrubber, err = scrub.New(s.cfg); err != nil {
				t.Fatal(err)
			}
			return s.run(t)
		}
		stop := begin()
		s.flip(t, bad)
		if err := s.scrubber.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour)
		stop()
		if got := s.scrubber.Status(); len(got.Corrupt) != 1 || !got.Corrupt[0].Repaired || !got.Corrupt[0].Stale {
			t.Errorf("while it is mapped: %+v", got)
		}
		if dropped := taken(true); len(dropped) < 10 || len(dropped) > 20 || dropped[0] || !dropped[1] {
			t.Errorf("the pages were dropped with the right bytes: %t", dropped)
		}
		s.close(t)
		s = newSetting(t, dir, s.fx)
		defer s.close(t)
		stop = begin()
		<-time.After(time.Hour)
		if got := s.scrubber.Status(); len(got.Corrupt) != 1 || !got.Corrupt[0].Stale {
			t.Errorf("after a restart: %+v", got)
		}
		taken(false)
		<-time.After(time.Hour)
		taken(false)
		<-time.After(time.Hour)
		stop()
		if got, dropped := s.scrubber.Status(), taken(false); len(got.Corrupt) != 1 || got.Corrupt[0].Stale || len(dropped) > 0 {
			t.Errorf("after the end of the mapping: %+v, %d calls", got, len(dropped))
		}
	})
}
