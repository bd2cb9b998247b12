package node_test

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// TestSecondNodeStartsWithTheTraceOfTheFirst starts an image on one node, and pulls it on
// another and on a third that knows only the second.
func TestSecondNodeStartsWithTheTraceOfTheFirst(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	members := []member{newMember(t, 0), newMember(t, 1), newMember(t, 2)}
	nodes := make([]*node.Node, len(members))
	for i, self := range members {
		var before []p2p.Peer
		for _, m := range members[max(0, i-1):min(i+2, len(members))] {
			if m.peer.String() != self.peer.String() {
				before = append(before, m.peer)
			}
		}
		metrics := prometheus.NewRegistry()
		nodes[i], _ = start(t, node.Config{Dir: self.dir, Listen: []string{self.listen}, Peers: before, Metrics: metrics})
		if i > 0 {
			awaitPeers(t, metrics, 1)
		}
	}
	// A machine that is busy may answer too late: the question is asked again.
	awaitSet := func(n *node.Node) {
		t.Helper()
		p2ptest.Await(t, "the start-up set", func() bool {
			pulled := fetched(t, n, image, func(*node.Image) bool { return false })
			return n.ImageStatus(pulled).CachedBytes >= int64(len(touched()))*block.Size
		})
	}
	// The second node asks while the start is still going on.
	m := mount(t, nodes[0], image)
	requireTouched(t, m.Target())
	awaitSet(nodes[1])
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := traces(t, members[1].dir); len(found) != 0 {
		t.Errorf("what another node has learnt is kept as %v", found)
	}
	// The third one finds nothing, since the second has not started it.
	pulled := fetched(t, nodes[2], image, func(*node.Image) bool { return false })
	if cached := nodes[2].ImageStatus(pulled).CachedBytes; cached != 0 {
		t.Errorf("the third node has loaded %d bytes", cached)
	}
	runStart(t, nodes[1], members[1].dir, image)
	awaitSet(nodes[2])
}

// requireTouched reads what a start of large reads.
func requireTouched(t *testing.T, dir string) {
	t.Helper()
	names := map[block.Digest]string{touched()[0].Layer: largeGzip, touched()[1].Layer: largePlain}
	for _, s := range touched() {
		off := s.Offset - largeStart
		got, err := readPart(filepath.Join(dir, names[s.Layer]), off, startup.PageSize)
		if err != nil || !bytes.Equal(got, large().files[names[s.Layer]][off:off+startup.PageSize]) {
			t.Fatalf("at %d of %s: error %v or wrong bytes", off, names[s.Layer], err)
		}
	}
}

// hostileHints answers every question for a hint with the same bytes, or never.
type hostileHints []byte

// Hint implements [p2p.Hints].
func (h hostileHints) Hint(ctx context.Context, _ block.Digest) ([]byte, error) {
	if h == nil {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return h, nil
}

// TestFalseTraceOfPeer pulls and mounts an image beside a peer whose traces are of no use.
func TestFalseTraceOfPeer(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	foreign, err := startup.Trace{{Layer: block.Sum([]byte("another image")), Length: startup.MaxBlocks * block.Size}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	own := streamID(mixed().layers[0].Tar)
	behind, err := startup.Trace{{Layer: own, Offset: 1 << 40, Length: startup.PageSize}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, hint := range map[string]hostileHints{
		"nonsense": []byte("nonsense"), "empty": {}, "of another image": foreign, "behind the end": behind, "never": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			self := newMember(t, 0)
			cfg := p2ptest.Config(1, p2p.NewList(self.peer))
			cfg.Layout, cfg.Hints = mixed(), hint
			bad := p2ptest.Start(t, cfg)
			peers, err := p2p.ParsePeers(bad.Addrs())
			if err != nil {
				t.Fatal(err)
			}
			n, _ := start(t, node.Config{Dir: self.dir, Listen: []string{self.listen}, Peers: peers})
			p2ptest.AwaitConnected(t, bad, 1)
			pulled := fetched(t, n, image, func(*node.Image) bool { return false })
			if cached := n.ImageStatus(pulled).CachedBytes; cached != 0 {
				t.Errorf("%d bytes were loaded", cached)
			}
			m := mount(t, n, image)
			requireFiles(t, m.Target(), mixed().files)
			if err := m.Unmount(t.Context()); err != nil {
				t.Error(err)
			}
			if served := bad.Stats().Served; served[0] == 0 && name != "never" {
				t.Errorf("the peer was not asked: %v", served)
			}
		})
	}
}
