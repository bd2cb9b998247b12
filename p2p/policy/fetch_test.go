package policy

import (
	"context"
	"errors"
	"math/bits"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
)

// fakePeer is one peer of a network in virtual time.
type fakePeer struct {
	delay time.Duration   // before every block and before the end
	lacks map[uint32]bool // blocks it does not hold
	none  bool            // it holds nothing
	flip  bool            // it sends wrong bytes
	short bool            // it sends too few bytes
	err   error           // it ends every answer with this
	hang  bool            // it never answers
	asked []BlockRequest
}

// fakeNet is a network of fake peers.
type fakeNet struct {
	fx *blocktest.Fixture

	mu     sync.Mutex
	peers  map[PeerID]*fakePeer
	banned []PeerID
	open   int
}

func (n *fakeNet) Connected() []PeerID {
	n.mu.Lock()
	defer n.mu.Unlock()
	var ids []PeerID
	for id := range n.peers {
		if !slices.Contains(n.banned, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (n *fakeNet) Ban(id PeerID, _ *CorruptError) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.banned = append(n.banned, id)
}

func (n *fakeNet) Request(ctx context.Context, id PeerID, req BlockRequest, deliver func(uint32, []byte) error) (Reply, error) {
	n.mu.Lock()
	p := n.peers[id]
	p.asked = append(p.asked, req)
	n.open++
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.open--
		n.mu.Unlock()
	}()
	var lacks uint16
	for m := req.Mask; m != 0; m &= m - 1 {
		i := bits.TrailingZeros16(m)
		index := req.First + uint32(i)
		if p.none || p.lacks[index] {
			lacks |= 1 << i
			continue
		}
		if err := p.wait(ctx); err != nil {
			return Reply{}, err
		}
		data := slices.Clone(n.fx.Content(block.Key{Layer: req.Layer, Index: index}))
		if p.flip {
			data[len(data)/2] ^= 1
		}
		if p.short {
			data = data[:len(data)-1]
		}
		if err := deliver(index, data); err != nil {
			return Reply{}, err
		}
	}
	if err := p.wait(ctx); err != nil {
		return Reply{}, err
	}
	return Reply{Missing: lacks}, p.err
}

func (p *fakePeer) wait(ctx context.Context) error {
	if p.hang {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(p.delay):
		return nil
	}
}

type world struct {
	net        *fakeNet
	scoreboard *Scoreboard
	fetcher    *Fetcher
	layer      *blocktest.Layer
}

func newWorld(peers map[PeerID]*fakePeer) *world {
	fx := blocktest.Standard()
	w := &world{net: &fakeNet{fx: fx, peers: peers}, scoreboard: NewScoreboard(nil), layer: fx.Largest()}
	w.fetcher = NewFetcher(Config{Network: w.net, Layout: fx, Scoreboard: w.scoreboard})
	return w
}

// fetch reads a range of the largest layer and returns how many blocks came, how
// long it took and the error.
func (w *world) fetch(t *testing.T, first, count uint32) (int, time.Duration, error) {
	t.Helper()
	start := time.Now()
	got, err := blocktest.Fetch(t.Context(), t, w.net.fx, w.fetcher, block.Range{Layer: w.layer.ID, First: first, Count: count})
	if w.net.open != 0 {
		t.Errorf("%d questions outlive the fetch", w.net.open)
	}
	return len(got), time.Since(start), err
}

func TestConformance(t *testing.T) {
	blocktest.TestSource(t, blocktest.Raw(), func(t *testing.T, fx *blocktest.Fixture) block.Source {
		t.Helper()
		return NewFetcher(Config{
			Network: &fakeNet{fx: fx, peers: map[PeerID]*fakePeer{"a": {}, "b": {none: true}, "c": {lacks: map[uint32]bool{0: true}}}},
			Layout:  fx, Scoreboard: NewScoreboard(nil), ReadBudget: time.Minute, SilenceTimeout: time.Minute,
		})
	})
}

func TestFetchTakesTheRestElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := &fakePeer{lacks: map[uint32]bool{1: true, 3: true}}, &fakePeer{lacks: map[uint32]bool{0: true, 2: true}}
		w := newWorld(map[PeerID]*fakePeer{"a": a, "b": b})
		if n, _, err := w.fetch(t, 0, 4); err != nil || n != 4 {
			t.Fatalf("%d blocks, %v", n, err)
		}
		var masks []uint16
		for _, p := range []*fakePeer{a, b} {
			if len(p.asked) != 1 {
				t.Fatalf("a peer was asked %d times, want once", len(p.asked))
			}
			masks = append(masks, p.asked[0].Mask)
		}
		slices.Sort(masks)
		if masks[1] != 0xf || masks[0] != 0x5 && masks[0] != 0xa {
			t.Errorf("asked for %#x: the second peer must be asked only for what the first lacked", masks)
		}
	})
}

func TestNobodyHoldsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &fakePeer{none: true}
		w := newWorld(map[PeerID]*fakePeer{"a": a})
		for range 3 {
			if _, _, err := w.fetch(t, 0, 2); !errors.Is(err, block.ErrNotFound) || errors.Is(err, block.ErrUnavailable) {
				t.Fatalf("error %v, want ErrNotFound only", err)
			}
		}
		if len(a.asked) != 1 {
			t.Errorf("asked %d times within the time a miss is remembered, want once", len(a.asked))
		}
		time.Sleep(missTTL) //nolint:forbidigo // virtual time
		if _, _, err := w.fetch(t, 0, 2); !errors.Is(err, block.ErrNotFound) {
			t.Fatal(err)
		}
		if len(a.asked) != 2 {
			t.Errorf("asked %d times after the miss was forgotten, want twice", len(a.asked))
		}
	})
}

func TestNoPeers(t *testing.T) {
	w := newWorld(nil)
	if _, _, err := w.fetch(t, 0, 1); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("without peers: %v, want ErrNotFound", err)
	}
}

// TestReadIsBounded: peers that hang cost a read its budget and no more, and then
// nothing, because they are benched.
func TestReadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(map[PeerID]*fakePeer{"a": {hang: true}, "b": {hang: true}, "c": {hang: true}, "d": {hang: true}})
		_, elapsed, err := w.fetch(t, 0, 16)
		if !errors.Is(err, block.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
		if elapsed > DefaultReadBudget {
			t.Errorf("the read waited %s, more than %s", elapsed, DefaultReadBudget)
		}
		for range 6 {
			_, _, _ = w.fetch(t, 0, 16) //nolint:errcheck,dogsled // until all have failed twice
		}
		if benched, _ := w.scoreboard.Counts(); benched != 4 {
			t.Fatalf("%d peers benched, want 4", benched)
		}
		if _, elapsed, err = w.fetch(t, 0, 16); elapsed != 0 || err == nil {
			t.Errorf("benched peers cost a read %s, and it ends with %v", elapsed, err)
		}
	})
}

// TestDribble: a peer that always sends a little just in time does not hold a read
// longer than its budget either.
func TestDribble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(map[PeerID]*fakePeer{"a": {delay: 240 * time.Millisecond}})
		n, elapsed, err := w.fetch(t, 0, 16)
		if !errors.Is(err, block.ErrUnavailable) || elapsed > DefaultReadBudget || n == 0 {
			t.Errorf("%d blocks in %s, %v; want some within %s and ErrUnavailable", n, elapsed, err, DefaultReadBudget)
		}
	})
}

func TestSlowPeerIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, fast := &fakePeer{hang: true}, &fakePeer{delay: time.Millisecond}
		w := newWorld(map[PeerID]*fakePeer{"slow": slow, "fast": fast})
		for first := range uint32(16) {
			n, elapsed, err := w.fetch(t, first, 1)
			if err != nil || n != 1 {
				t.Fatalf("block %d: %v", first, err)
			}
			if elapsed > DefaultSilenceTimeout+2*time.Millisecond {
				t.Errorf("block %d took %s", first, elapsed)
			}
		}
		if len(slow.asked) > failuresToBench {
			t.Errorf("the slow peer was asked %d times, want at most %d", len(slow.asked), failuresToBench)
		}
	})
}

// TestSlowSink: the time that the sink takes is not the peer's.
func TestSlowSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(map[PeerID]*fakePeer{"a": {delay: time.Millisecond}})
		req := block.Request{Range: block.Range{Layer: w.layer.ID, Count: 8}}
		err := w.fetcher.Fetch(t.Context(), req, func(block.Key, []byte) error {
			time.Sleep(10 * time.Second) //nolint:forbidigo // virtual time
			return nil
		})
		if err != nil {
			t.Errorf("a slow sink ended the fetch: %v", err)
		}
	})
}

func TestWrongBytes(t *testing.T) {
	for name, bad := range map[string]*fakePeer{"flipped": {flip: true}, "short": {short: true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(map[PeerID]*fakePeer{"bad": bad})
				n, _, err := w.fetch(t, 0, 4)
				if n != 0 || !errors.Is(err, block.ErrCorrupt) || !errors.Is(err, block.ErrUnavailable) {
					t.Errorf("%d blocks, %v; want none, ErrCorrupt and ErrUnavailable", n, err)
				}
				if diff := cmp.Diff([]PeerID{"bad"}, w.net.banned); diff != "" {
					t.Errorf("banned (-want +got):\n%s", diff)
				}
				w.net.banned = nil // the network forgets, the scoreboard must not
				for range 5 {
					_, _, _ = w.fetch(t, 0, 4) //nolint:errcheck,dogsled // only who is asked matters
				}
				if len(bad.asked) != 1 {
					t.Errorf("a banned peer was asked %d times", len(bad.asked))
				}
				w.scoreboard.Forget("bad")
				if !w.scoreboard.Banned("bad") {
					t.Error("leaving and coming back lifts a ban")
				}
				time.Sleep(banTime) //nolint:forbidigo // virtual time
				if w.scoreboard.Banned("bad") {
					t.Error("the ban does not end")
				}
				w.net.peers["good"] = &fakePeer{}
				if n, _, err := w.fetch(t, 0, 18); err != nil || n != 18 {
					t.Errorf("with a good peer besides: %d blocks, %v", n, err)
				}
			})
		})
	}
}

// TestWrongBytesAreTold: that others fail besides does not hide it.
func TestWrongBytesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(map[PeerID]*fakePeer{"bad": {flip: true}, "dead": {hang: true}, "empty": {none: true}})
		n, _, err := w.fetch(t, 0, 20) // two extents
		if n != 0 || !errors.Is(err, block.ErrCorrupt) || !errors.Is(err, block.ErrUnavailable) {
			t.Errorf("%d blocks, %v; want none, ErrCorrupt and ErrUnavailable", n, err)
		}
	})
}

func TestBusyPeerIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := &fakePeer{none: true, err: &BusyError{After: 300 * time.Millisecond}}
		w := newWorld(map[PeerID]*fakePeer{"busy": busy})
		if _, _, err := w.fetch(t, 0, 1); !errors.Is(err, block.ErrUnavailable) {
			t.Fatalf("error %v, want ErrUnavailable", err)
		}
		_, _, _ = w.fetch(t, 0, 1) //nolint:errcheck,dogsled // only who is asked matters
		if len(busy.asked) != 1 {
			t.Fatalf("asked %d times, want once", len(busy.asked))
		}
		time.Sleep(300 * time.Millisecond) //nolint:forbidigo // virtual time
		busy.none, busy.err = false, nil
		if n, _, err := w.fetch(t, 0, 1); err != nil || n != 1 {
			t.Errorf("after the pause: %d blocks, %v", n, err)
		}
	})
}

func TestReaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(map[PeerID]*fakePeer{"a": {hang: true}})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			err := w.fetcher.Fetch(ctx, block.Request{Range: w.layer.Range()}, func(block.Key, []byte) error { return nil })
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want the cause of the context", err)
			}
		}
		if benched, _ := w.scoreboard.Counts(); benched != 0 {
			t.Error("a peer is benched because readers left")
		}
	})
}

// TestFillSpreads: a large request is spread over the peers that hold it.
func TestFillSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := blocktest.Random(9, 16*block.ExtentSize)
		fx := blocktest.New(blocktest.Layer{Name: "large", Data: data})
		net := &fakeNet{fx: fx, peers: map[PeerID]*fakePeer{}}
		for _, id := range []PeerID{"a", "b", "c", "d"} {
			net.peers[id] = &fakePeer{delay: time.Millisecond}
		}
		f := NewFetcher(Config{Network: net, Layout: fx, Scoreboard: NewScoreboard(nil)})
		req := block.Request{Range: fx.Largest().Range(), Class: block.ClassFill}
		if err := f.Fetch(t.Context(), req, func(block.Key, []byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		for id, p := range net.peers {
			if n := len(p.asked); n < 1 || n > 7 {
				t.Errorf("peer %s was asked for %d of 16 extents", id, n)
			}
		}
	})
}

func TestInflightIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(map[PeerID]*fakePeer{"a": {delay: time.Millisecond}})
		w.fetcher = NewFetcher(Config{Network: w.net, Layout: w.net.fx, Scoreboard: w.scoreboard, Inflight: 16, ReadBudget: time.Hour, SilenceTimeout: time.Hour})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := w.fetcher.Fetch(t.Context(), block.Request{Range: w.layer.Range()}, func(block.Key, []byte) error { return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		inflight := func() int {
			w.scoreboard.mu.Lock()
			defer w.scoreboard.mu.Unlock()
			return w.scoreboard.peers["a"].inflight
		}
		if n := inflight(); n == 0 || n > 16 {
			t.Errorf("%d blocks in flight, want at most 16", n)
		}
		wg.Wait()
		if n := inflight(); n != 0 {
			t.Errorf("%d blocks in flight at the end", n)
		}
	})
}
