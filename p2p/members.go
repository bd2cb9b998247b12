package p2p

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Peer is a member of the cluster: who it is and where it listens. The zero value
// is nobody.
type Peer struct {
	id    peer.ID
	addrs []multiaddr.Multiaddr
}

// ParsePeer reads "peerID@/ip4/10.0.0.7/tcp/4077". Several addresses are separated
// by commas. Allowed are /ip4, /ip6, /dns, /dns4 and /dns6, each with /tcp.
func ParsePeer(s string) (Peer, error) {
	name, list, ok := strings.Cut(strings.TrimSpace(s), "@")
	if !ok {
		return Peer{}, fmt.Errorf("peer %q: no @ between peer ID and address; want peerID@/ip4/10.0.0.7/tcp/4077", s)
	}
	id, err := peer.Decode(name)
	if err != nil {
		return Peer{}, fmt.Errorf("peer %q: %q is not a peer ID: %w", s, name, err)
	}
	p := Peer{id: id}
	for text := range strings.SplitSeq(list, ",") {
		addr, err := parseAddr(strings.TrimSpace(text))
		if err != nil {
			return Peer{}, fmt.Errorf("peer %q: %w", s, err)
		}
		p.addrs = append(p.addrs, addr)
	}
	return p, nil
}

// ParsePeers reads a list of peers. A peer that is listed twice has all its
// addresses.
func ParsePeers(list []string) ([]Peer, error) {
	var peers []Peer
	for _, s := range list {
		p, err := ParsePeer(s)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(peers, func(q Peer) bool { return q.id == p.id })
		if i < 0 {
			peers = append(peers, p)
			continue
		}
		peers[i].addrs = append(peers[i].addrs, p.addrs...)
	}
	return peers, nil
}

func parseAddr(text string) (multiaddr.Multiaddr, error) {
	addr, err := multiaddr.NewMultiaddr(text)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w; want the form /ip4/10.0.0.7/tcp/4077", text, err)
	}
	hosts := []int{multiaddr.P_IP4, multiaddr.P_IP6, multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6}
	parts := addr.Protocols()
	if len(parts) != 2 || !slices.Contains(hosts, parts[0].Code) || parts[1].Code != multiaddr.P_TCP {
		return nil, fmt.Errorf("address %q is not an address and a TCP port; want the form /ip4/10.0.0.7/tcp/4077", text)
	}
	return addr, nil
}

// ID returns the peer ID.
func (p Peer) ID() string { return p.id.String() }

// String formats the peer as [ParsePeer] reads it.
func (p Peer) String() string {
	addrs := make([]string, len(p.addrs))
	for i, a := range p.addrs {
		addrs[i] = a.String()
	}
	return p.id.String() + "@" + strings.Join(addrs, ",")
}

// Members says who belongs to the cluster. Both methods are called concurrently.
type Members interface {
	// Members returns all members; whether the node itself is among them does not
	// matter. The caller does not modify the slice.
	Members() []Peer
	// Changed returns a channel that is closed when Members has another answer
	// than before the call, or nil if that never happens.
	Changed() <-chan struct{}
}

// List is a set of members that whoever feeds it may replace as a whole. The zero
// value is empty and ready for use.
type List struct {
	mu      sync.Mutex // guards everything below
	peers   []Peer
	changed chan struct{} // nil until somebody asks
}

// NewList returns a list of the given members.
func NewList(peers ...Peer) *List {
	return &List{peers: slices.Clone(peers)}
}

// Set replaces the members. Connections to those that are no members any more are
// closed.
func (l *List) Set(peers []Peer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.peers = slices.Clone(peers)
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// Members implements [Members].
func (l *List) Members() []Peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.peers
}

// Changed implements [Members].
func (l *List) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

func parseListen(list []string) ([]multiaddr.Multiaddr, error) {
	if len(list) == 0 {
		return nil, errors.New("no address to listen on")
	}
	addrs := make([]multiaddr.Multiaddr, len(list))
	for i, text := range list {
		addr, err := parseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("listening: %w", err)
		}
		addrs[i] = addr
	}
	return addrs, nil
}
