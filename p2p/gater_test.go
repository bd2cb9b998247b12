package p2p

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/brisk-project/brisk/p2p/policy"
)

// TestGater: members get in until they are banned, and again when the ban is over;
// strangers and the node itself never do.
func TestGater(t *testing.T) {
	now := time.Now()
	g := &gater{scoreboard: policy.NewScoreboard(func() time.Time { return now })}
	const self, member, bad, stranger peer.ID = "self", "member", "bad", "stranger"
	check := func(when string, want map[peer.ID]bool) {
		t.Helper()
		for id, ok := range want {
			for name, got := range map[string]bool{
				"dial":    g.InterceptPeerDial(id) && g.InterceptAddrDial(id, nil),
				"inbound": g.InterceptSecured(network.DirInbound, id, nil),
			} {
				if got != ok {
					t.Errorf("%s: %s of %q allowed: %t, want %t", when, name, id, got, ok)
				}
			}
		}
	}
	if g.InterceptAccept(nil) {
		t.Error("a node without members accepts connections")
	}
	check("without members", map[peer.ID]bool{self: false, member: false})
	g.set([]Peer{{id: self}, {id: member}, {id: bad}, {}}, self)
	check("with members", map[peer.ID]bool{self: false, member: true, bad: true, stranger: false, "": false})
	g.scoreboard.Ban(policy.PeerID(bad))
	g.set([]Peer{{id: member}}, self)
	g.scoreboard.Forget(policy.PeerID(bad))
	g.set([]Peer{{id: member}, {id: bad}}, self)
	check("left and came back", map[peer.ID]bool{member: true, bad: false})
	now = now.Add(time.Hour)
	check("much later", map[peer.ID]bool{bad: true})
	if n := g.refused.Load(); n != 6 {
		t.Errorf("%d refusals counted, want 6", n)
	}
}
