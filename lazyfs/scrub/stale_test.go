package scrub_test

import (
	"context"
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
		var calls []bool // with the right bytes or without
		mapped := true
		drop := func(_ context.Context, k block.Key, right []byte) bool {
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
		if got := s.scrubber.Status(); len(got.Corrupt) != 1 || !got.Corrupt[0].Mended || !got.Corrupt[0].Stale {
			t.Errorf("while it is mapped: %+v", got)
		}
		if len(calls) < 10 || len(calls) > 20 || calls[0] || !calls[1] {
			t.Errorf("the pages were dropped with the right bytes: %t", calls)
		}
		s.close(t)
		s = newSetting(t, dir, s.fx)
		defer s.close(t)
		stop = begin()
		<-time.After(time.Hour)
		if got := s.scrubber.Status(); len(got.Corrupt) != 1 || !got.Corrupt[0].Stale {
			t.Errorf("after a restart: %+v", got)
		}
		mapped = false
		<-time.After(time.Hour)
		calls = nil
		<-time.After(time.Hour)
		stop()
		if got := s.scrubber.Status(); len(got.Corrupt) != 1 || got.Corrupt[0].Stale || len(calls) > 0 {
			t.Errorf("after the end of the mapping: %+v, %d calls", got, len(calls))
		}
	})
}
