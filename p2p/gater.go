package p2p

import (
	"sync/atomic"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/brisk-project/brisk/p2p/policy"
)

// gater admits members that are not banned, in both directions, and nobody else.
type gater struct {
	members    atomic.Pointer[map[peer.ID]Peer]
	scoreboard *policy.Scoreboard
	refused    atomic.Uint64 // connections of strangers and banned peers
}

var _ connmgr.ConnectionGater = (*gater)(nil)

// set replaces the members, without the node itself.
func (g *gater) set(peers []Peer, self peer.ID) {
	members := make(map[peer.ID]Peer, len(peers))
	for _, p := range peers {
		if p.id != "" && p.id != self {
			members[p.id] = p
		}
	}
	g.members.Store(&members)
}

func (g *gater) all() map[peer.ID]Peer {
	if m := g.members.Load(); m != nil {
		return *m
	}
	return nil
}

func (g *gater) allows(id peer.ID) bool {
	_, member := g.all()[id]
	return member && !g.scoreboard.Banned(policy.PeerID(id))
}

// InterceptPeerDial implements [connmgr.ConnectionGater].
func (g *gater) InterceptPeerDial(id peer.ID) bool { return g.allows(id) }

// InterceptAddrDial implements [connmgr.ConnectionGater]. The address says
// nothing: the handshake fails unless the right peer is there.
func (g *gater) InterceptAddrDial(id peer.ID, _ multiaddr.Multiaddr) bool { return g.allows(id) }

// InterceptAccept implements [connmgr.ConnectionGater]. Who it is shows only in
// the handshake, and how many may be in their handshakes at once is bounded by
// the resource manager. With no members at all not even that is worth doing.
func (g *gater) InterceptAccept(network.ConnMultiaddrs) bool { return len(g.all()) > 0 }

// InterceptSecured implements [connmgr.ConnectionGater]: the peer has proved that
// it holds the key of its ID.
func (g *gater) InterceptSecured(_ network.Direction, id peer.ID, _ network.ConnMultiaddrs) bool {
	if g.allows(id) {
		return true
	}
	g.refused.Add(1)
	return false
}

// InterceptUpgraded implements [connmgr.ConnectionGater]. It asks once more, for
// a ban may have come during the handshake.
func (g *gater) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	return g.allows(c.RemotePeer()), 0
}
