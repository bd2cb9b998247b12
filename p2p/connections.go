package p2p

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/p2p/policy"
	"github.com/brisk-project/brisk/p2p/wire"
)

const (
	// dialsAtOnce bounds the handshakes this node starts at once: each takes about
	// 1.5 ms of CPU at either end.
	dialsAtOnce = 8
	// settleTime is how long reads wait for the first round of connections after
	// the start. Members that are down must not hold up the first read longer.
	settleTime = 500 * time.Millisecond
	// shortLife is the age under which the loss of a link counts like a failed
	// dial, so that a peer that accepts and hangs up is not dialled in a loop.
	shortLife = 5 * time.Second
	// recheck is how often the links are looked over without any event.
	recheck = 30 * time.Second
)

// link is what is needed to ask one peer: a stream for urgent requests, one for
// bulk.
type link struct {
	urgent, bulk *requester
	since        time.Time
}

func (l *link) requester(c block.Class) *requester {
	if urgent(c) {
		return l.urgent
	}
	return l.bulk
}

// links keeps a link to every member. Reads use the links that exist; making them
// is the business of run alone.
type links struct {
	host       host.Host
	members    Members
	gater      *gater
	scoreboard *policy.Scoreboard
	pool       *bufferPool

	wake    chan struct{} // has room for one: something changed
	settled chan struct{} // closed when reads need not wait for connections

	wg    sync.WaitGroup
	slots chan struct{} // dials under way

	mu      sync.Mutex // guards everything below
	up      map[peer.ID]*link
	busy    map[peer.ID]bool // being connected
	inbound map[peer.ID]bool // connected to us since the last look: no need to wait
	tried   map[peer.ID]bool // the first attempt has ended
	ready   bool             // settled is closed
}

func newLinks(h host.Host, members Members, g *gater, pool *bufferPool) *links {
	return &links{
		host: h, members: members, gater: g, scoreboard: g.scoreboard, pool: pool,
		wake: make(chan struct{}, 1), settled: make(chan struct{}), slots: make(chan struct{}, dialsAtOnce),
		up: make(map[peer.ID]*link), busy: make(map[peer.ID]bool), inbound: make(map[peer.ID]bool), tried: make(map[peer.ID]bool),
	}
}

// run keeps the links until ctx ends, and returns once nothing of it runs.
func (ls *links) run(ctx context.Context) {
	notify := &network.NotifyBundle{ConnectedF: func(_ network.Network, c network.Conn) { ls.connected(c.RemotePeer()) }}
	ls.host.Network().Notify(notify)
	defer ls.host.Network().StopNotify(notify)
	defer ls.wg.Wait()
	start := time.AfterFunc(settleTime, ls.settle)
	defer start.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := ls.members.Changed()
		timer.Reset(ls.look(ctx))
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ls.wake:
		case <-timer.C:
		}
	}
}

// look compares the links with the members, starts what is missing and ends what
// is too much. It returns when to look again.
func (ls *links) look(ctx context.Context) time.Duration {
	before := ls.gater.all()
	ls.gater.set(ls.members.Members(), ls.host.ID())
	members := ls.gater.all()
	for id := range before {
		if _, still := members[id]; !still {
			ls.scoreboard.Forget(policy.PeerID(id))
			ls.disconnect(id)
		}
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	next, waiting := recheck, false
	now := time.Now()
	for id, p := range members {
		waiting = waiting || !ls.tried[id]
		if ls.up[id] != nil || ls.busy[id] || ls.scoreboard.Banned(policy.PeerID(id)) {
			continue
		}
		if pause := ls.scoreboard.DialAt(policy.PeerID(id)).Sub(now); pause > 0 && !ls.inbound[id] {
			next = min(next, pause)
			continue
		}
		delete(ls.inbound, id)
		ls.busy[id] = true
		ls.wg.Go(func() { ls.connect(ctx, p) })
	}
	if !waiting {
		ls.settleLocked()
	}
	return next
}

// connected notes that a member has connected, from our side or from its own: if
// it was down it is back, and the pause between dials is over.
func (ls *links) connected(id peer.ID) {
	ls.mu.Lock()
	ls.inbound[id] = true
	ls.mu.Unlock()
	ls.poke()
}

func (ls *links) poke() {
	select {
	case ls.wake <- struct{}{}:
	default: // a wake-up is due already
	}
}

func (ls *links) settle() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.settleLocked()
}

func (ls *links) settleLocked() {
	if !ls.ready {
		ls.ready = true
		close(ls.settled)
	}
}

// connect makes the link to one member and keeps it until it breaks.
func (ls *links) connect(ctx context.Context, p Peer) {
	defer ls.poke()
	l, err := ls.open(ctx, p)
	ls.mu.Lock()
	ls.tried[p.id] = true
	if err == nil {
		ls.up[p.id] = l
	}
	ls.mu.Unlock()
	ls.scoreboard.Dialled(policy.PeerID(p.id), err == nil)
	if err == nil {
		ls.poke()
		ls.keep(ctx, l)
	}
	ls.mu.Lock()
	delete(ls.up, p.id)
	delete(ls.busy, p.id)
	ls.mu.Unlock()
	if err == nil && time.Since(l.since) < shortLife {
		ls.scoreboard.Dialled(policy.PeerID(p.id), false)
	}
}

// open connects to a member, if it is not connected, and opens the two streams.
func (ls *links) open(ctx context.Context, p Peer) (*link, error) {
	select {
	case ls.slots <- struct{}{}:
		defer func() { <-ls.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	// Only the addresses that the members list names; what the peer says of itself
	// may be out of date.
	ls.host.Peerstore().ClearAddrs(p.id)
	// The scoreboard alone decides when to dial again: it knows that a peer is back
	// when that peer connects.
	if sw, ok := ls.host.Network().(*swarm.Swarm); ok {
		sw.Backoff().Clear(p.id)
	}
	if err := ls.host.Connect(ctx, peer.AddrInfo{ID: p.id, Addrs: p.addrs}); err != nil {
		return nil, fmt.Errorf("connecting to peer %s: %w", p.id, err)
	}
	var requesters [2]*requester
	for i := range requesters {
		s, err := ls.host.NewStream(network.WithNoDial(ctx, "connected above"), p.id, wire.Protocol)
		if err != nil {
			for _, l := range requesters[:i] {
				l.fail(err)
			}
			return nil, fmt.Errorf("opening stream to peer %s: %w", p.id, err)
		}
		requesters[i] = newRequester(s, ls.pool)
	}
	return &link{urgent: requesters[0], bulk: requesters[1], since: time.Now()}, nil
}

// keep runs both requesters until one breaks, and then ends the other.
func (ls *links) keep(ctx context.Context, l *link) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, stream := range []*requester{l.urgent, l.bulk} {
		wg.Go(func() {
			stream.run(ctx)
			cancel(errStreamClosed)
		})
	}
	wg.Wait()
}

func (ls *links) disconnect(id peer.ID) {
	// The connections end in any case: with the peer gone there is nobody to tell.
	_ = ls.host.Network().ClosePeer(id) //nolint:errcheck // see above
}

func (ls *links) get(id policy.PeerID) *link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.up[peer.ID(id)]
}

// Connected implements [policy.Network].
func (ls *links) Connected() []policy.PeerID {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ids := make([]policy.PeerID, 0, len(ls.up))
	for id := range maps.Keys(ls.up) {
		ids = append(ids, policy.PeerID(id))
	}
	return ids
}

var errNoLink = errors.New("peer is not connected")
