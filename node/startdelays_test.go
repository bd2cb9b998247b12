package node //nolint:testpackage // the clock is handed in here only

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
)

// TestDelays checks that time counts once in which several reads wait, and only that of the
// image, within the window.
func TestDelays(t *testing.T) {
	var s delays
	zero := time.Unix(1000, 0)
	at := func(seconds float64) time.Time { return zero.Add(time.Duration(seconds * float64(time.Second))) }
	one, other, shared := block.Digest{1}, block.Digest{2}, block.Digest{3}
	s.begin(at(0), at(1), &Image{Name: "one", Digest: one}, []block.Digest{one, shared})
	s.begin(at(1), at(2), &Image{Name: "other", Digest: other}, []block.Digest{other, shared})
	first, second := s.read(one, at(3)), s.read(shared, at(4)) // one: 3 to 6
	first(at(5))
	second(at(6)) // other: 4 to 6
	s.read(block.Digest{9}, at(7))(at(20))
	endless := s.read(one, at(29)) // one: 29 to its end
	if over := s.ended(at(30)); len(over) != 0 {
		t.Errorf("over at once: %v", over)
	}
	late := s.read(one, at(40))
	late(at(50))
	endless(at(60))
	want := []StartDelay{
		{Image: "one", Manifest: one, Began: at(0), Mounting: time.Second, Waited: 5 * time.Second, Finished: at(31)},
		{Image: "other", Manifest: other, Began: at(1), Mounting: time.Second, Waited: 2 * time.Second, Finished: at(32)},
	}
	if diff := cmp.Diff(want, s.ended(at(70))); diff != "" {
		t.Error(diff)
	}
	// The number of those that are kept is bounded, and of those that are measured.
	for i := range 2 * openDelays {
		s.begin(at(100), at(100), &Image{Digest: block.Digest{byte(i), byte(i >> 8)}}, nil)
	}
	if over := s.ended(at(200)); len(over) != keptDelays || over[keptDelays-1].Manifest != (block.Digest{255}) {
		t.Errorf("%d are kept", len(over))
	}
}
