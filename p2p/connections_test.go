package p2p_test

import (
	"net"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/link"
)

// linkTo opens a link to the port of a server on loopback and returns it with its own
// port.
func linkTo(tb testing.TB, port string, cfg link.Config) (*link.Link, string) {
	tb.Helper()
	l := link.New(tb, "127.0.0.1:"+port, cfg)
	_, own, err := net.SplitHostPort(l.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	return l, own
}

// reach lets all nodes but the first reach the first one through the port that
// via returns for its own, and nobody else anybody. It returns once they do.
func reach(tb testing.TB, known, behind *p2p.List, via func(port string) string, nodes ...*p2p.Node) {
	tb.Helper()
	peer := func(id, port string) p2p.Peer {
		p, err := p2p.ParsePeer(id + "@/ip4/127.0.0.1/tcp/" + port)
		if err != nil {
			tb.Fatal(err)
		}
		return p
	}
	addr := nodes[0].Addrs()[0]
	server := peer(nodes[0].ID(), via(addr[strings.LastIndex(addr, "/")+1:]))
	var others []p2p.Peer
	for _, n := range nodes[1:] {
		others = append(others, peer(n.ID(), "1")) // nobody listens there: the server does not dial
	}
	known.Set(others)
	behind.Set([]p2p.Peer{server})
	for _, n := range nodes[1:] {
		p2ptest.AwaitConnected(tb, n, 1)
	}
}

// shut closes what is given up in any case.
func shut(c interface{ Close() error }) {
	_ = c.Close() //nolint:errcheck // see above
}
