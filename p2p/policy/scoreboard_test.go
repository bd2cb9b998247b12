package policy

import (
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// clock is a settable clock.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newTestBoard() (*Scoreboard, *clock) {
	c := &clock{t: time.Unix(1_700_000_000, 0)}
	return NewScoreboard(c.now), c
}

func pick(b *Scoreboard, layer block.Digest, extent uint32, ids ...PeerID) PeerID {
	id, _, _ := b.Pick(layer, extent, 0xffff, ids, nil)
	return id
}

func TestPickOrder(t *testing.T) {
	layer := block.Sum([]byte("layer"))
	b, c := newTestBoard()
	b.RequestAnswered("near", 200*time.Microsecond)
	b.RequestAnswered("far", 20*time.Millisecond)
	for extent := range uint32(20) {
		if got := pick(b, layer, extent, "far", "near"); got != "near" {
			t.Fatalf("extent %d: %s, want the faster one", extent, got)
		}
	}
	b.RequestSent("near", loadBlocks)
	if got := pick(b, layer, 0, "far", "near"); got != "far" {
		t.Errorf("%s, want the one with less to do", got)
	}
	b.BlockReceived("near", layer)
	if got := pick(b, layer, 0, "far", "near"); got != "near" {
		t.Errorf("%s, want the one that has blocks of the layer", got)
	}
	b.RequestSent("near", loadBlocks)
	if got := pick(b, layer, 0, "far", "near"); got != "far" {
		t.Errorf("%s, want a guess while the one that has the layer is busy", got)
	}
	if id, _, _ := b.Pick(layer, 0, 1, []PeerID{"far", "near"}, map[PeerID]bool{"x": true}); id != "near" {
		t.Errorf("%s, want no second guess", id)
	}
	b.RequestSent("near", -loadBlocks)
	c.t = c.t.Add(hitTTL)
	if got := pick(b, layer, 0, "far", "near"); got != "far" {
		t.Errorf("%s: what a peer held a minute ago still counts", got)
	}
	if _, _, ok := b.Pick(layer, 0, 1, []PeerID{"far"}, map[PeerID]bool{"far": true}); ok {
		t.Error("a peer to skip was picked")
	}
}

func TestEqualsShareExtents(t *testing.T) {
	b, _ := newTestBoard()
	layer := block.Sum([]byte("layer"))
	count := map[PeerID]int{}
	for extent := range uint32(300) {
		count[pick(b, layer, extent, "a", "b", "c")]++
	}
	for id, n := range count {
		if n < 70 || n > 130 {
			t.Errorf("peer %q has %d of 300 extents", id, n)
		}
	}
}

func TestMissesAreMasked(t *testing.T) {
	b, c := newTestBoard()
	layer := block.Sum([]byte("layer"))
	b.BlocksMissing("a", layer, 3, 0x00f0)
	b.BlocksMissing("a", layer, 3, 0x0001)
	if _, mask, ok := b.Pick(layer, 3, 0x00ff, []PeerID{"a"}, nil); !ok || mask != 0x000e {
		t.Errorf("asks for %#x, %v; want what it may have", mask, ok)
	}
	if _, mask, _ := b.Pick(layer, 4, 0x00ff, []PeerID{"a"}, nil); mask != 0x00ff {
		t.Errorf("a miss counts for another extent: %#x", mask)
	}
	if _, _, ok := b.Pick(layer, 3, 0x00f0, []PeerID{"a"}, nil); ok {
		t.Error("asked for nothing but what it lacks")
	}
	c.t = c.t.Add(missTTL)
	if _, mask, _ := b.Pick(layer, 3, 0x00ff, []PeerID{"a"}, nil); mask != 0x00ff {
		t.Errorf("misses are not forgotten: %#x", mask)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	b, _ := newTestBoard()
	for i := range uint32(3 * maxExtents) {
		b.BlocksMissing("a", block.Digest{}, i, 1)
		b.BlocksMissing("a", block.Sum([]byte{byte(i), byte(i >> 8)}), 0, 1)
	}
	p := b.peers["a"]
	if len(p.layers) > maxLayers {
		t.Errorf("%d layers remembered, want at most %d", len(p.layers), maxLayers)
	}
	for _, l := range p.layers {
		if len(l.missing) > maxExtents {
			t.Errorf("%d extents remembered, want at most %d", len(l.missing), maxExtents)
		}
	}
}

func TestBenchDoubles(t *testing.T) {
	b, c := newTestBoard()
	layer := block.Sum([]byte("layer"))
	benched := func() bool { return pick(b, layer, 0, "a") == "" }
	b.Failed("a")
	if benched() {
		t.Fatal("one failure benches")
	}
	for _, seconds := range []int{5, 10, 20, 40, 60, 60} {
		pause := time.Duration(seconds) * time.Second
		b.Failed("a")
		b.Failed("a") // of a question asked before: does not count
		c.t = c.t.Add(pause - 1)
		if !benched() {
			t.Fatalf("back before %s", pause)
		}
		c.t = c.t.Add(1)
		if benched() {
			t.Fatalf("not back after %s", pause)
		}
	}
	b.RequestAnswered("a", time.Millisecond)
	b.Failed("a")
	if benched() {
		t.Error("an answer does not forgive the failures before")
	}
	b.Failed("a")
	c.t = c.t.Add(5 * time.Second)
	if benched() {
		t.Error("an answer does not reset the pause")
	}
}

func TestDialPause(t *testing.T) {
	b, c := newTestBoard()
	if !b.DialAt("a").Before(c.t) {
		t.Error("a new peer is not dialled at once")
	}
	b.Dialled("a", false)
	if got := b.DialAt("a").Sub(c.t); got != 5*time.Second {
		t.Errorf("pause of %s after a failed dial, want 5s", got)
	}
	b.Dialled("a", true)
	if b.DialAt("a").After(c.t) {
		t.Error("a success does not end the pause")
	}
	b.Ban("a")
	if got := b.DialAt("a").Sub(c.t); got != banTime {
		t.Errorf("a banned peer is dialled after %s, want %s", got, banTime)
	}
}
