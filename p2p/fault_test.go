package p2p_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/link"
)

// TestLinkFails: in the middle of a block the only peer hangs, or its connection
// breaks. The read ends in time, what has been delivered is right, and as soon as
// another peer is there the same read succeeds.
func TestLinkFails(t *testing.T) {
	for name, breaks := range map[string]bool{"hangs": false, "breaks": true} {
		t.Run(name, func(t *testing.T) {
			fx := blocktest.Standard()
			layer := fx.Largest()
			known, behind := p2p.NewList(), p2p.NewList()
			start := func(i int, members *p2p.List, local block.Source) *p2p.Node {
				cfg := p2ptest.Config(i, members)
				cfg.Layout, cfg.Local = fx, local
				cfg.SilenceTimeout, cfg.ReadBudget = 200*time.Millisecond, 2*time.Second
				return p2ptest.Start(t, cfg)
			}
			server, reader := start(0, known, blocktest.NewSource(fx)), start(1, behind, nil)
			var l *link.Link
			reach(t, known, behind, func(port string) string {
				var own string
				l, own = linkTo(t, port, link.Config{})
				return own
			}, server, reader)

			kept := &memory{blocks: make(map[block.Key][]byte)}
			read := func() error {
				return reader.Source().Fetch(t.Context(), block.Request{Range: layer.Range()}, kept.put)
			}
			l.FailAfter(block.Size*3/2, breaks)
			began := time.Now()
			if err := read(); !errors.Is(err, block.ErrUnavailable) {
				t.Errorf("error %v, want ErrUnavailable", err)
			}
			// Without deadlines it would be the 30 s after which the muxer gives up.
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("the read took %s", took)
			}
			if len(kept.blocks) > 1 {
				t.Errorf("%d blocks of one and a half", len(kept.blocks))
			}

			other := start(2, known, blocktest.NewSource(fx))
			known.Set(append(known.Members(), parse(t, reader)))
			behind.Set(append(behind.Members(), parse(t, other)))
			p2ptest.Await(t, "all from the other peer", func() bool { return read() == nil })
			for k, data := range kept.blocks {
				if !bytes.Equal(data, fx.Content(k)) {
					t.Errorf("wrong bytes of block %s reached the reader", k)
				}
			}
		})
	}
}

// parse returns the peer that a running node is.
func parse(t *testing.T, n *p2p.Node) p2p.Peer {
	t.Helper()
	p, err := p2p.ParsePeer(n.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	return p
}
