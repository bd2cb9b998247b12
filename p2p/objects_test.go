package p2p_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
)

// objects are objects in memory; some are not what their digest says.
type objects map[block.Digest][]byte

type memoryObject struct{ *bytes.Reader }

func (memoryObject) Close() error { return nil }

// Open implements [p2p.Objects].
func (o objects) Open(_ context.Context, d block.Digest) (p2p.ObjectReader, int64, error) {
	data, ok := o[d]
	if !ok {
		return nil, 0, block.ErrNotFound
	}
	return memoryObject{bytes.NewReader(data)}, int64(len(data)), nil
}

func TestObjects(t *testing.T) {
	fx := blocktest.Raw()
	small, large, none := []byte("manifest"), blocktest.Random(7, 5*block.Size+17), []byte{}
	held := objects{block.Sum(small): small, block.Sum(large): large, block.Sum(none): none}
	nodes := p2ptest.Mesh(t, 3, func(i int, cfg *p2p.Config) {
		cfg.Layout = fx
		if i == 2 {
			cfg.Objects = held
		}
	})
	for _, want := range [][]byte{small, large, none} {
		got, err := nodes[0].Object(t.Context(), block.Sum(want), int64(len(want)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("object of %d bytes: %d bytes, %v", len(want), len(got), err)
		}
	}
	if got := nodes[0].Stats().ReceivedBytes(); got != uint64(len(small)+len(large)) {
		t.Errorf("%d bytes counted, want %d", got, len(small)+len(large))
	}
	if _, err := nodes[0].Object(t.Context(), block.Sum([]byte("absent")), 1<<20); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("absent object: %v, want ErrNotFound", err)
	}
	for range 3 {
		if _, err := nodes[0].Object(t.Context(), block.Sum(large), int64(len(large)-1)); !errors.Is(err, block.ErrUnavailable) {
			t.Errorf("object larger than accepted: %v, want ErrUnavailable", err)
		}
	}
	if s := nodes[0].Stats(); s.BackingOff != 0 {
		t.Errorf("%d peers benched for objects larger than accepted", s.BackingOff)
	}
	if _, err := nodes[0].Object(t.Context(), block.Sum(large), p2p.MaxObject+1); err == nil {
		t.Error("a limit above the maximum is accepted")
	}
	flipped := bytes.Clone(large)
	flipped[block.Size+3] ^= 0x10
	held[block.Sum(small)] = flipped[:len(small)]
	got, err := nodes[1].Object(t.Context(), block.Sum(small), 100)
	if got != nil || !errors.Is(err, block.ErrCorrupt) {
		t.Errorf("object with wrong bytes: %d bytes, %v; want ErrCorrupt", len(got), err)
	}
	p2ptest.AwaitConnected(t, nodes[1], 1)
	if s := nodes[1].Stats(); s.Bans != 1 {
		t.Errorf("%d bans, want 1", s.Bans)
	}
}

func TestNotRunning(t *testing.T) {
	fx := blocktest.Standard()
	cfg := p2ptest.Config(0, p2p.NewList())
	cfg.Layout = fx
	node, err := p2p.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		if _, err := blocktest.Fetch(t.Context(), t, fx, node.Source(), fx.Largest().Range()); !errors.Is(err, block.ErrUnavailable) {
			t.Errorf("reading: %v, want ErrUnavailable", err)
		}
		if _, err := node.Object(t.Context(), block.Digest{}, 1); !errors.Is(err, block.ErrUnavailable) {
			t.Errorf("reading an object: %v, want ErrUnavailable", err)
		}
		if addrs := node.Addrs(); addrs != nil {
			t.Errorf("addresses %v", addrs)
		}
	}
	check()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := node.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	check()
	if err := node.Run(t.Context()); err == nil {
		t.Error("a node runs twice")
	}
}

func TestNewRefuses(t *testing.T) {
	for name, breakIt := range map[string]func(*p2p.Config){
		"no key":        func(c *p2p.Config) { c.Key = nil },
		"no address":    func(c *p2p.Config) { c.Listen = nil },
		"a UDP address": func(c *p2p.Config) { c.Listen = []string{"/ip4/127.0.0.1/udp/1/quic-v1"} },
		"no members":    func(c *p2p.Config) { c.Members = nil },
		"no layout":     func(c *p2p.Config) { c.Layout = nil },
	} {
		cfg := p2ptest.Config(0, p2p.NewList())
		cfg.Layout = blocktest.Raw()
		breakIt(&cfg)
		if _, err := p2p.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestListenFails(t *testing.T) {
	cfg := p2ptest.Config(0, p2p.NewList())
	cfg.Layout = blocktest.Raw()
	cfg.Listen = []string{"/ip4/192.0.2.1/tcp/4077"} // reserved for documentation: not ours
	node, err := p2p.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Run(t.Context()); err == nil {
		t.Error("listening on a foreign address succeeds")
	}
}
