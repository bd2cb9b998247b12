package p2p_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/p2p/policy"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// pair starts a node that holds nothing and one that serves from local, and
// returns the first.
func pair(tb testing.TB, fx *blocktest.Fixture, local block.Source) *p2p.Node {
	tb.Helper()
	return p2ptest.Mesh(tb, 2, func(i int, cfg *p2p.Config) {
		cfg.Layout = fx
		if i == 1 {
			cfg.Local = local
		}
	})[0]
}

func TestConformance(t *testing.T) {
	for name, fx := range map[string]*blocktest.Fixture{"Standard": blocktest.Standard(), "Raw": blocktest.Raw()} {
		t.Run(name, func(t *testing.T) {
			blocktest.TestSource(t, fx, func(t *testing.T, fx *blocktest.Fixture) block.Source {
				t.Helper()
				return pair(t, fx, blocktest.NewSource(fx)).Source()
			})
		})
	}
}

// memory is a store of blocks, for what a node keeps of what it read.
type memory struct {
	mu     sync.Mutex
	blocks map[block.Key][]byte
}

func (m *memory) put(k block.Key, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocks[k] = bytes.Clone(data)
	return nil
}

// logs is a log that can be read while it is written.
type logs struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestFlippedBytes: a peer sends blocks with one bit wrong. None of them reaches
// the reader or what the reader keeps, the blocks come from another peer, and the
// first is cut off.
func TestFlippedBytes(t *testing.T) {
	fx := blocktest.Standard()
	layer := fx.Largest()
	bad := blocktest.NewSource(fx)
	bad.Flip(slices.Collect(fx.Keys())...)
	good := &memory{blocks: make(map[block.Key][]byte)}
	for k := range fx.Keys() {
		good.blocks[k] = fx.Content(k)
	}
	logged := &logs{}
	nodes := p2ptest.Mesh(t, 3, func(i int, cfg *p2p.Config) {
		cfg.Layout = fx
		cfg.Local = []block.Source{nil, bad, good}[i]
		cfg.Log = slog.New(slog.NewTextHandler(logged, nil))
	})
	reader := nodes[0]
	kept := &memory{blocks: make(map[block.Key][]byte)}
	read := func(count uint32) error {
		r := layer.Range()
		r.Count = count
		return reader.Source().Fetch(t.Context(), block.Request{Range: r}, kept.put)
	}
	all := layer.Range().Count
	// Only the bad peer claims to have the first block, so that it is asked.
	first := layer.Range().Key(0)
	delete(good.blocks, first)
	if err := read(1); !errors.Is(err, block.ErrCorrupt) || len(kept.blocks) != 0 {
		t.Errorf("nobody had the right bytes, yet the read delivered %d blocks and ended with %v", len(kept.blocks), err)
	}
	if err := read(all); err == nil {
		t.Error("with the bad peer banned nobody has the first block, yet the read succeeds")
	}
	if err := good.put(first, fx.Content(first)); err != nil {
		t.Fatal(err)
	}
	p2ptest.AwaitConnected(t, reader, 1)
	p2ptest.AwaitConnected(t, nodes[1], 1)
	p2ptest.Await(t, "the rest from the good peer", func() bool { return read(all) == nil })
	if len(kept.blocks) != int(layer.Range().Count) {
		t.Errorf("%d blocks kept, want %d", len(kept.blocks), layer.Range().Count)
	}
	for k, data := range kept.blocks {
		if !bytes.Equal(data, fx.Content(k)) {
			t.Errorf("wrong bytes of block %s reached the reader", k)
		}
	}
	if s := reader.Stats(); s.Asked[policy.ResultCorrupt] == 0 || s.Bans == 0 || s.Banned != 1 {
		t.Errorf("stats %+v, want a corrupt answer and one banned peer", s)
	}
	for _, want := range []string{nodes[1].ID(), "want=sha256:", "got=sha256:"} {
		if !strings.Contains(logged.String(), want) {
			t.Errorf("the log does not tell %s:\n%s", want, logged)
		}
	}
}

// TestStrangerIsRefused: a node with an unknown key gets no connection, whoever
// dials.
func TestStrangerIsRefused(t *testing.T) {
	fx := blocktest.Standard()
	nodes := p2ptest.Mesh(t, 2, func(_ int, cfg *p2p.Config) {
		cfg.Layout = fx
		cfg.Local = blocktest.NewSource(fx)
	})
	members := p2p.NewList()
	cfg := p2ptest.Config(99, members)
	cfg.Layout = fx
	stranger := p2ptest.Start(t, cfg)
	p2ptest.AddMembers(t, members, nodes...)
	p2ptest.Await(t, "both members refuse", func() bool {
		return nodes[0].Stats().Refused > 0 && nodes[1].Stats().Refused > 0
	})
	if n := stranger.Stats().Connected; n != 0 {
		t.Errorf("the stranger is connected to %d members", n)
	}
	_, err := blocktest.Fetch(t.Context(), t, fx, stranger.Source(), fx.Largest().Range())
	if err == nil {
		t.Error("the stranger could read")
	}
	if n := nodes[0].Stats().Connected; n != 1 {
		t.Errorf("a member has %d peers, want the other member", n)
	}
}

// TestMembershipChanges: who leaves is disconnected, who comes back is connected.
func TestMembershipChanges(t *testing.T) {
	fx := blocktest.Standard()
	lists := []*p2p.List{p2p.NewList(), p2p.NewList()}
	nodes := make([]*p2p.Node, 2)
	for i := range nodes {
		cfg := p2ptest.Config(i, lists[i])
		cfg.Layout = fx
		nodes[i] = p2ptest.Start(t, cfg)
	}
	for range 2 {
		p2ptest.AddMembers(t, lists[0], nodes...)
		p2ptest.AddMembers(t, lists[1], nodes...)
		p2ptest.AwaitConnected(t, nodes[0], 1)
		p2ptest.AwaitConnected(t, nodes[1], 1)
		lists[0].Set(nil)
		lists[1].Set(nil)
		p2ptest.AwaitConnected(t, nodes[0], 0)
		p2ptest.AwaitConnected(t, nodes[1], 0)
	}
}

// TestDeadPeers: members that are down, or gone in the middle, neither hold up
// reads nor make them fail, and one that restarts is used again.
func TestDeadPeers(t *testing.T) {
	fx := blocktest.Standard()
	layer := fx.Largest()
	members := p2p.NewList()
	var nodes []*p2p.Node
	var stops []func()
	for i := range 3 {
		cfg := p2ptest.Config(i, members)
		cfg.Layout = fx
		if i > 0 {
			cfg.Local = blocktest.NewSource(fx)
		}
		node, stop := p2ptest.StartStop(t, cfg)
		nodes, stops = append(nodes, node), append(stops, stop)
		t.Cleanup(stop)
	}
	id, err := p2p.ID(p2ptest.Key(77))
	if err != nil {
		t.Fatal(err)
	}
	down, err := p2p.ParsePeer(id + "@/ip4/127.0.0.1/tcp/1")
	if err != nil {
		t.Fatal(err)
	}
	p2ptest.AddMembers(t, members, nodes...)
	members.Set(append(members.Members(), down))
	p2ptest.AwaitConnected(t, nodes[0], 2)
	read := func() error {
		_, err := blocktest.Fetch(t.Context(), t, fx, nodes[0].Source(), layer.Range())
		return err
	}
	if err := read(); err != nil {
		t.Fatalf("with a member that is down: %v", err)
	}
	stops[1]()
	if err := read(); err != nil {
		t.Fatalf("with a member that went away: %v", err)
	}
	p2ptest.AwaitConnected(t, nodes[0], 1)
	stops[2]()
	p2ptest.AwaitConnected(t, nodes[0], 0)
	if err := read(); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("with nobody left: %v, want ErrNotFound at once", err)
	}
	cfg := p2ptest.Config(1, members)
	cfg.Layout, cfg.Local = fx, blocktest.NewSource(fx)
	again := p2ptest.Start(t, cfg)
	p2ptest.AddMembers(t, members, nodes[0], again)
	p2ptest.AwaitConnected(t, nodes[0], 1)
	if err := read(); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// TestSlowPeer: a peer that hangs costs a read its patience, not more.
func TestSlowPeer(t *testing.T) {
	fx := blocktest.Standard()
	layer := fx.Largest()
	slow := blocktest.NewSource(fx)
	release := slow.Stall()
	defer release()
	nodes := p2ptest.Mesh(t, 3, func(i int, cfg *p2p.Config) {
		cfg.Layout = fx
		cfg.Local = []block.Source{nil, slow, blocktest.NewSource(fx)}[i]
		if i == 0 {
			cfg.SilenceTimeout = 50 * time.Millisecond
		}
	})
	for i := range layer.Range().Count {
		r := layer.Range()
		r.First, r.Count = i, 1
		p2ptest.Await(t, "block "+r.String(), func() bool {
			_, err := blocktest.Fetch(t.Context(), t, fx, nodes[0].Source(), r)
			return err == nil
		})
	}
}

// TestMesh: one node of eight holds everything; the others read it all at once and
// serve what they have to each other.
func TestMesh(t *testing.T) {
	fx := blocktest.New(blocktest.Layer{Name: "layer", Data: blocktest.Random(1, 3*block.ExtentSize+1234)})
	layer := fx.Largest()
	stores := make([]*memory, 8)
	nodes := p2ptest.Mesh(t, len(stores), func(i int, cfg *p2p.Config) {
		stores[i] = &memory{blocks: make(map[block.Key][]byte)}
		cfg.Layout = fx
		cfg.Local = stores[i]
	})
	for k := range fx.Keys() {
		if err := stores[0].put(k, fx.Content(k)); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := 1; i < len(nodes); i++ {
		wg.Go(func() {
			for n := range layer.Range().Count {
				at := (n + uint32(i)*6) % layer.Range().Count
				r := layer.Range()
				r.First, r.Count = at, 1
				err := nodes[i].Source().Fetch(t.Context(), block.Request{Range: r, Class: block.ClassTail}, stores[i].put)
				if err != nil {
					t.Errorf("node %d, %s: %v", i, r, err)
				}
			}
		})
	}
	wg.Wait()
	var fromFirst, fromOthers uint64
	for i, node := range nodes {
		sent := node.Stats().SentBytes()
		if i == 0 {
			fromFirst = sent
			continue
		}
		fromOthers += sent
		for k := range fx.Keys() {
			if !bytes.Equal(stores[i].blocks[k], fx.Content(k)) {
				t.Errorf("node %d has wrong bytes of block %s", i, k)
			}
		}
	}
	t.Logf("the first node sent %.1f times the layer, the others %.1f times",
		float64(fromFirst)/float64(len(layer.Data)), float64(fromOthers)/float64(len(layer.Data)))
}

// Fetch implements [block.Source].
func (m *memory) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	for i := range req.Count {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		m.mu.Lock()
		data, ok := m.blocks[req.Key(i)]
		m.mu.Unlock()
		if !ok {
			return block.ErrNotFound
		}
		if err := sink(req.Key(i), data); err != nil {
			return err
		}
	}
	return nil
}

func TestMetrics(t *testing.T) {
	fx := blocktest.Standard()
	reg := prometheus.NewPedanticRegistry()
	nodes := p2ptest.Mesh(t, 2, func(i int, cfg *p2p.Config) {
		cfg.Layout = fx
		cfg.Local = blocktest.NewSource(fx)
		if i == 0 {
			cfg.Metrics = reg
		}
	})
	if _, err := blocktest.Fetch(t.Context(), t, fx, nodes[0].Source(), fx.Largest().Range()); err != nil {
		t.Fatal(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint of the metrics: %v, %v", problems, err)
	}
	want := fmt.Sprintf("# HELP brisk_p2p_peers Peers by state.\n# TYPE brisk_p2p_peers gauge\n"+
		"brisk_p2p_peers{state=%q} 0\nbrisk_p2p_peers{state=%q} 0\nbrisk_p2p_peers{state=%q} 1\n", "banned", "benched", "connected")
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "brisk_p2p_peers"); err != nil {
		t.Error(err)
	}
	if got := nodes[0].Stats().Received[block.ClassRead]; got != uint64(len(fx.Largest().Data)) {
		t.Errorf("%d bytes received, want %d", got, len(fx.Largest().Data))
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n > 60 {
		t.Errorf("%d series, %v; want few", n, err)
	}
}
