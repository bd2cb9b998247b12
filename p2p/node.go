package p2p

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/p2p/policy"
	"github.com/brisk-project/brisk/p2p/wire"
)

// Config is what a [Node] works with.
type Config struct {
	// Key is the identity of the node, see [LoadOrCreateKey]. Required.
	Key ed25519.PrivateKey
	// Listen are the addresses to listen on, such as /ip4/0.0.0.0/tcp/4077; port 0
	// takes a free one. Required.
	Listen []string
	// Members are the peers to connect to. Required.
	Members Members
	// Layout has the lengths and digests of the blocks that Source reads. Unknown layers are not
	// requested. Required.
	Layout block.Layout
	// Local has the blocks that peers may read: those on this node, never those of the
	// registry or of other peers. If it implements [block.Holder], requests for absent blocks
	// need no I/O. Nil serves no blocks.
	Local block.Source
	// Objects has the objects that peers may read. Nil serves none.
	Objects Objects
	// Hints has the hints that peers may read. Nil serves none.
	Hints Hints

	// SilenceTimeout is how long a peer may be silent while a program waits, at the
	// first attempt; 0 means [policy.DefaultSilenceTimeout].
	SilenceTimeout time.Duration
	// ReadBudget is the maximum time that a read waits for all peers together; 0 means
	// [policy.DefaultReadBudget].
	ReadBudget time.Duration

	// Log may be nil. Metrics may be nil: then there are none.
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Node serves blocks to peers and reads blocks from them. All methods are safe for
// concurrent use.
type Node struct {
	cfg        Config
	id         peer.ID
	log        *slog.Logger
	gater      *gater
	scoreboard *policy.Scoreboard
	fetcher    *policy.Fetcher
	server     *server
	counts     *counters
	pool       *bufferPool
	ready      chan struct{} // closed when Run has settled
	serving    activity      // stream handlers

	mu    sync.Mutex // guards everything below
	host  host.Host  // nil unless Run runs
	links *links     // nil unless Run runs
	ran   bool
}

var errNotRunning = errors.New("the node is not running")

// New checks cfg and returns a node that does nothing until [Node.Run].
func New(cfg Config) (*Node, error) {
	_, id, err := identity(cfg.Key)
	if err != nil {
		return nil, err
	}
	if _, err := parseListen(cfg.Listen); err != nil {
		return nil, err
	}
	if cfg.Members == nil || cfg.Layout == nil {
		return nil, errors.New("peer node needs members and a layout")
	}
	n := &Node{
		cfg: cfg, id: id, log: cfg.Log, counts: &counters{}, pool: &bufferPool{}, ready: make(chan struct{}),
		scoreboard: policy.NewScoreboard(time.Now),
	}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	n.gater = &gater{scoreboard: n.scoreboard}
	n.fetcher = policy.NewFetcher(policy.Config{
		Network: peers{n}, Layout: cfg.Layout, Scoreboard: n.scoreboard,
		SilenceTimeout: cfg.SilenceTimeout, ReadBudget: cfg.ReadBudget, Observe: n.counts.asked,
	})
	n.server = &server{local: cfg.Local, objects: cfg.Objects, hints: cfg.Hints, sending: newSemaphore(sendingTotal, time.Now), counts: n.counts}
	if cfg.Metrics != nil {
		if err := register(cfg.Metrics, n); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Run listens, connects to the members and serves them until ctx ends. It returns
// nil then, once everything it started has stopped, or what kept it from
// starting. It can be called once.
func (n *Node) Run(ctx context.Context) error {
	key, _, err := identity(n.cfg.Key)
	if err != nil {
		return err
	}
	listen, err := parseListen(n.cfg.Listen)
	if err != nil {
		return err
	}
	ls, err := n.start(key)
	if err != nil {
		return err
	}
	ls.host.SetStreamHandler(wire.Protocol, func(s network.Stream) { n.serve(ctx, s) })
	if err := ls.host.Network().Listen(listen...); err != nil {
		return errors.Join(fmt.Errorf("listening for peers: %w", err), n.stop(ls))
	}
	n.log.Info("serving peers", "peer", n.id.String(), "addresses", n.Addrs())
	var settling sync.WaitGroup
	settling.Go(func() {
		select {
		case <-ls.settled:
		case <-ctx.Done():
		}
		close(n.ready)
	})
	ls.run(ctx)
	settling.Wait()

	return n.stop(ls)
}

// serve answers one stream of a peer.
func (n *Node) serve(ctx context.Context, s network.Stream) {
	if !n.serving.begin() {
		_ = s.Reset() //nolint:errcheck // the connection ends anyway
		return
	}
	defer n.serving.end()
	if err := n.server.serve(ctx, s); errors.Is(err, wire.ErrMalformed) {
		n.log.Warn("peer broke the protocol", "peer", s.Conn().RemotePeer().String(), "error", err)
	}
}

// start makes the host, which from then on is there for Addrs and for reads.
func (n *Node) start(key crypto.PrivKey) (*links, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ran {
		return nil, errors.New("the node has run already")
	}
	n.ran = true
	n.gater.set(n.cfg.Members.Members(), n.id)
	h, err := newHost(key, n.gater)
	if err != nil {
		return nil, err
	}
	n.host = h
	n.links = newLinks(h, n.cfg.Members, n.gater, n.pool)
	return n.links, nil
}

// stop ends what start began: first nobody can ask through this node any more,
// then the connections end, which ends what is being served.
func (n *Node) stop(ls *links) error {
	n.mu.Lock()
	n.links, n.host = nil, nil
	n.mu.Unlock()
	ls.host.RemoveStreamHandler(wire.Protocol)
	err := ls.host.Close()
	n.serving.close()
	if err != nil {
		return fmt.Errorf("closing libp2p host: %w", err)
	}
	return nil
}

// ID returns the peer ID of the node.
func (n *Node) ID() string { return n.id.String() }

// Ready returns a channel that is closed once the node listens and has tried to
// reach every member, at the latest half a second after the start of [Node.Run].
// Reads before that wait for it.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Addrs returns the addresses that the node listens on, in the form peerID@address
// that [ParsePeer] reads, wildcards resolved to the addresses of the machine. It
// is empty unless the node runs.
func (n *Node) Addrs() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.host == nil {
		return nil
	}
	addrs, err := n.host.Network().InterfaceListenAddresses()
	if err != nil {
		addrs = n.host.Network().ListenAddresses()
	}
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = Peer{id: n.id, addrs: []multiaddr.Multiaddr{a}}.String()
	}
	return list
}

// Source returns the blocks that connected peers hold. Every block it delivers is
// verified. [policy.Fetcher] tells its errors.
func (n *Node) Source() block.Source { return source{n} }

type source struct{ n *Node }

// Fetch implements [block.Source].
func (s source) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if err := s.n.await(ctx); err != nil && req.Count > 0 {
		return &block.Error{Source: "peer", Op: "reading", Range: req.Range, Err: err}
	}
	return s.n.fetcher.Fetch(ctx, req, sink)
}

// await waits until the node has had time to connect, if it has just started.
func (n *Node) await(ctx context.Context) error {
	ls := n.running()
	if ls == nil {
		return fmt.Errorf("%w: %w", block.ErrUnavailable, errNotRunning)
	}
	select {
	case <-ls.settled:
		return nil
	default:
	}
	select {
	case <-n.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (n *Node) running() *links {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links
}

// Object reads an object of at most maxSize bytes from peers and verifies it. The
// error wraps [block.ErrNotFound] when no connected peer has it, and
// [block.ErrUnavailable] when one that might have it failed.
func (n *Node) Object(ctx context.Context, digest block.Digest, maxSize int64) ([]byte, error) {
	if maxSize < 0 || maxSize > MaxObject {
		return nil, fmt.Errorf("reading object %s from peers: a limit of %d bytes is not between 0 and %d", digest, maxSize, int64(MaxObject))
	}
	if err := n.await(ctx); err != nil {
		return nil, fmt.Errorf("reading object %s from peers: %w", digest, err)
	}
	failure := block.ErrNotFound
	for _, id := range n.scoreboard.Order(digest, peers{n}.Connected()) {
		data, err := n.objectFrom(ctx, id, digest, maxSize)
		if err == nil {
			n.counts.objectsReceived.Add(uint64(len(data)))
			return data, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("reading object %s from peers: %w", digest, context.Cause(ctx))
		}
		if !errors.Is(err, block.ErrNotFound) {
			failure = fmt.Errorf("%w: %w", block.ErrUnavailable, err)
		}
	}
	return nil, fmt.Errorf("reading object %s from peers: %w", digest, failure)
}

// objectFrom asks one peer for an object and notes what its answer says about it.
func (n *Node) objectFrom(ctx context.Context, id policy.PeerID, digest block.Digest, maxSize int64) ([]byte, error) {
	l := n.link(id)
	if l == nil {
		return nil, errNoLink
	}
	data, err := l.urgent.object(ctx, digest, maxSize)
	var evidence *policy.CorruptError
	var busy *policy.BusyError
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, block.ErrNotFound), errors.Is(err, errRefused):
	case errors.As(err, &evidence):
		n.scoreboard.Ban(id)
		peers{n}.Ban(id, evidence)
	case errors.As(err, &busy):
		n.scoreboard.Busy(id, busy.After)
	default:
		n.scoreboard.Failed(id)
	}
	return data, err
}

func (n *Node) link(id policy.PeerID) *link {
	if ls := n.running(); ls != nil {
		return ls.get(id)
	}
	return nil
}

// peers is the network that the policy works on.
type peers struct{ n *Node }

var _ policy.Network = peers{}

// Connected implements [policy.Network].
func (p peers) Connected() []policy.PeerID {
	if ls := p.n.running(); ls != nil {
		return ls.Connected()
	}
	return nil
}

// Request implements [policy.Network].
func (p peers) Request(ctx context.Context, id policy.PeerID, req policy.BlockRequest, deliver func(uint32, []byte) error) (policy.Reply, error) {
	l := p.n.link(id)
	if l == nil {
		return policy.Reply{}, errNoLink
	}
	return l.requester(req.Class).blocks(ctx, req, deliver)
}

// Ban implements [policy.Network].
func (p peers) Ban(id policy.PeerID, evidence *policy.CorruptError) {
	p.n.counts.bans.Add(1)
	p.n.log.Error("peer sent wrong bytes and is banned for ten minutes",
		"peer", peer.ID(id).String(), "block", evidence.Block.String(),
		"want", evidence.Want.String(), "got", evidence.Got.String(),
		"wantBytes", evidence.WantBytes, "gotBytes", evidence.GotBytes)
	if ls := p.n.running(); ls != nil {
		ls.disconnect(peer.ID(id))
	}
}
