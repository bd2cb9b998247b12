package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// member is a node among peers before it runs.
type member struct {
	dir    string
	listen string
	peer   p2p.Peer
}

// newMember makes the identity of a node and an address of loopback that nobody else
// listens on, so that others can be told of it before it runs.
func newMember(t *testing.T, i int) member {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := p2p.LoadOrCreateKey(filepath.Join(dir, node.PeerKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	id, err := p2p.ID(key)
	if err != nil {
		t.Fatal(err)
	}
	// Every address of 127.0.0.0/8 is this machine. The name of the directory is
	// unique, and so are most likely 20 bits of its hash.
	sum := fnv.New32a()
	fmt.Fprint(sum, dir, os.Getpid(), i) //nolint:errcheck // a hash takes everything
	bits := binary.BigEndian.AppendUint32(nil, sum.Sum32())
	listen := fmt.Sprintf("/ip4/127.%d.%d.%d/tcp/4077", 1+bits[0]>>1, bits[1], 1+bits[2]>>1)
	peer, err := p2p.ParsePeer(id + "@" + listen)
	if err != nil {
		t.Fatal(err)
	}
	return member{dir: dir, listen: listen, peer: peer}
}

// awaitPeers returns once a node is connected to n others.
func awaitPeers(t *testing.T, metrics prometheus.Gatherer, n int) {
	t.Helper()
	p2ptest.Await(t, fmt.Sprintf("%d connected peers", n), func() bool {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "brisk_p2p_peers" && m.GetLabel()[0].GetValue() == "connected" {
					return int(m.GetGauge().GetValue()) == n
				}
			}
		}
		return false
	})
}

// liar is a peer that has everything, with one wrong byte in every block.
type liar struct{ content }

// Fetch implements [block.Source].
func (l liar) Fetch(_ context.Context, req block.Request, sink block.Sink) error {
	for i := range req.Count {
		k := req.Key(i)
		stream, ok := l.streams()[k.Layer]
		if !ok {
			return block.ErrNotFound
		}
		data := slices.Clone(blockOf(stream, k.Index))
		data[len(data)/2] ^= 1
		if err := sink(k, data); err != nil {
			return err
		}
	}
	return nil
}

// Open implements [p2p.Objects].
func (l liar) Open(context.Context, block.Digest) (p2p.ObjectReader, int64, error) {
	lie := bytes.Repeat([]byte("lie"), 50)
	return nopCloser{bytes.NewReader(lie)}, int64(len(lie)), nil
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

func TestLyingPeer(t *testing.T) {
	require.FUSE(t)
	for name, objects := range map[string]p2p.Objects{"blocks": nil, "indexes": liar{mixed()}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := registrytest.New(t, registrytest.Config{})
			image := push(t, reg, "app:v1", mixed().layers)
			self := newMember(t, 0)
			cfg := p2ptest.Config(1, p2p.NewList(self.peer))
			cfg.Layout, cfg.Local, cfg.Objects = mixed(), liar{mixed()}, objects
			bad := p2ptest.Start(t, cfg)
			peers, err := p2p.ParsePeers(bad.Addrs())
			if err != nil {
				t.Fatal(err)
			}
			n, stop := start(t, node.Config{Dir: self.dir, Listen: []string{self.listen}, Peers: peers})
			p2ptest.AwaitConnected(t, bad, 1)
			m := mount(t, n, image)
			requireFiles(t, m.Status().Target, mixed().files)
			status := n.Status()
			if status.Bytes.Peers != 0 || status.Bytes.Registry == 0 {
				t.Errorf("accepted %d bytes from the liar, %d from the registry", status.Bytes.Peers, status.Bytes.Registry)
			}
			if bad.Stats().SentBytes() == 0 {
				t.Error("the liar was not asked")
			}
			if err := m.Unmount(t.Context()); err != nil {
				t.Error(err)
			}
			stop()
			held := requireRightCache(t, self.dir, mixed())
			t.Logf("the liar sent %d bytes; the cache holds %d blocks, all right", bad.Stats().SentBytes(), held)
		})
	}
}

// registryBytes is what a registry has sent, whatever it was.
func registryBytes(reg *registrytest.Registry) (sum int64) {
	for _, r := range reg.Requests() {
		sum += r.Bytes
	}
	return sum
}

func TestPeersSpareTheRegistry(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	members := []member{newMember(t, 0), newMember(t, 1), newMember(t, 2)}
	reg.ResetRequests()
	var sent [3]int64
	for i, self := range members {
		var others []p2p.Peer
		for j, m := range members {
			if j != i {
				others = append(others, m.peer)
			}
		}
		metrics := prometheus.NewRegistry()
		n, _ := start(t, node.Config{Dir: self.dir, Listen: []string{self.listen}, Peers: others, Metrics: metrics})
		awaitPeers(t, metrics, i)
		m := mount(t, n, image)
		if i == 2 {
			// From here on there are only the peers.
			if err := reg.Pause(); err != nil {
				t.Fatal(err)
			}
		}
		requireFiles(t, m.Status().Target, mixed().files)
		sent[i] = registryBytes(reg)
		reg.ResetRequests()
		if s := n.Status(); i > 0 && s.Bytes.Peers < 9<<20 {
			t.Errorf("node %d had %d bytes from peers, want all", i+1, s.Bytes.Peers)
		}
	}
	t.Logf("the registry sent %d bytes to node 1, %d to node 2, %d to node 3: %.2f %%", sent[0], sent[1], sent[2],
		100*float64(sent[1]+sent[2])/float64(sent[0]))
	if (sent[1]+sent[2])*20 > sent[0] {
		t.Error("want at most 5 % for nodes 2 and 3 together")
	}
}

// A node that knows no peers yet, and later has them, is no different from others:
// what it cannot have from them comes from the registry.
func TestPeersThatAreAway(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	self, away := newMember(t, 0), newMember(t, 1)
	n, _ := start(t, node.Config{Dir: self.dir, Listen: []string{self.listen}, Peers: []p2p.Peer{away.peer}})
	m := mount(t, n, image)
	requireFiles(t, m.Status().Target, mixed().files)
	if s := n.Status(); s.Bytes.Peers != 0 || !strings.HasPrefix(self.peer.String(), s.PeerID) {
		t.Errorf("status %+v", s)
	}
}
