package p2p

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	netconnmgr "github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
)

const (
	userAgent = "brisk"
	// dialTimeout is long for a data centre and short enough that a node that
	// hangs is known to hang before its next turn.
	dialTimeout = 5 * time.Second
	// streamWindow is the yamux flow-control window of a stream in bytes. The
	// receiver announces room by halves of it, so one stream carries 256 KiB a round
	// trip: 870 MB/s at the 0.3 ms of a zone. A larger window lets more bulk bytes
	// queue in front of an urgent block of the same connection. The figures are in
	// docs/decisions/0003-one-connection-per-peer.md.
	streamWindow = 512 << 10
	// MaxPeers is how many members one node can be connected to: a zone above 512
	// nodes is split into cells.
	MaxPeers = 512

	// Two nodes that dial each other at once keep both connections.
	connsPerPeer = 2
	// A pair of nodes has an urgent and a bulk stream in each direction; identify
	// and a stream being replaced come on top.
	streamsPerPeer = 16
	// Handshakes at once. 64 take about 0.1 s of one core; a whole zone that
	// reconnects gets in within seconds.
	maxTransient = 64
	// yamux reserves the window of every stream with the resource manager, used or
	// not: 16 streams of 512 KiB.
	memoryPerPeer = streamsPerPeer * streamWindow
)

// newHost starts a libp2p host: TCP, TLS 1.3, yamux, and nothing else. It does not
// listen yet.
func newHost(key crypto.PrivKey, gate connmgr.ConnectionGater) (host.Host, error) {
	resources, err := newResources()
	if err != nil {
		return nil, err
	}
	// The high mark lies under the limit of the resource manager, so that idle
	// connections are closed before new ones are refused.
	conns, err := netconnmgr.NewConnManager(MaxPeers, MaxPeers*connsPerPeer-maxTransient)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making connection manager: %w", err), resources.Close())
	}
	h, err := libp2p.New(
		libp2p.Identity(key),
		libp2p.NoListenAddrs,
		libp2p.NoTransports,
		// Port reuse serves hole punching only, and with it two nodes that dial
		// each other at once meet in a TCP simultaneous open that TLS cannot use.
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport(), tcp.WithConnectionTimeout(dialTimeout)),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.Muxer(yamux.ID, newMuxer()),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionManager(conns),
		libp2p.ConnectionGater(gate),
		libp2p.UserAgent(userAgent),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.SwarmOpts(swarm.WithDialRanker(swarm.NoDelayDialRanker)),
		libp2p.DisableRelay(),
		libp2p.DisableIdentifyAddressDiscovery(),
		libp2p.ForceReachabilityPublic(),
		libp2p.Ping(false),
		libp2p.DisableMetrics(), // per-peer labels; this package has its own
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting libp2p host: %w", err), conns.Close(), resources.Close())
	}
	return h, nil
}

func newMuxer() *yamux.Transport {
	cfg := *yamux.DefaultTransport.Config()
	cfg.InitialStreamWindowSize = streamWindow
	cfg.MaxStreamWindowSize = streamWindow
	cfg.LogOutput = io.Discard
	return (*yamux.Transport)(&cfg)
}

// newResources returns a resource manager with fixed limits. The library would
// scale them with the memory of the machine, which in a container is not ours.
func newResources() (network.ResourceManager, error) {
	conns := rcmgr.LimitVal(MaxPeers*connsPerPeer + maxTransient)
	streams := rcmgr.LimitVal(MaxPeers * streamsPerPeer)
	system := rcmgr.ResourceLimits{
		Conns: conns, ConnsInbound: conns, ConnsOutbound: conns, FD: conns,
		Streams: streams, StreamsInbound: streams, StreamsOutbound: streams,
		Memory: MaxPeers * memoryPerPeer,
	}
	transient := rcmgr.ResourceLimits{
		Conns: maxTransient, ConnsInbound: maxTransient, ConnsOutbound: maxTransient, FD: maxTransient,
		Streams: MaxPeers, StreamsInbound: MaxPeers, StreamsOutbound: MaxPeers,
		Memory: MaxPeers * streamWindow,
	}
	perPeer := rcmgr.ResourceLimits{
		// Twice what is used: a connection that replaces a dead one comes before
		// the dead one is noticed.
		Conns: 2 * connsPerPeer, ConnsInbound: 2 * connsPerPeer, ConnsOutbound: 2 * connsPerPeer, FD: 2 * connsPerPeer,
		Streams: streamsPerPeer, StreamsInbound: streamsPerPeer, StreamsOutbound: streamsPerPeer,
		Memory: memoryPerPeer,
	}
	limits := rcmgr.PartialLimitConfig{
		System: system, Transient: transient, PeerDefault: perPeer,
		ServiceDefault: system, ServicePeerDefault: perPeer,
		ProtocolDefault: system, ProtocolPeerDefault: perPeer,
		Conn:   rcmgr.ResourceLimits{Conns: 1, ConnsInbound: 1, ConnsOutbound: 1, FD: 1, Streams: streamsPerPeer, StreamsInbound: streamsPerPeer, StreamsOutbound: streamsPerPeer, Memory: memoryPerPeer},
		Stream: rcmgr.ResourceLimits{Streams: 1, StreamsInbound: 1, StreamsOutbound: 1, Memory: 2 * streamWindow},
	}.Build(rcmgr.InfiniteLimits)
	// Limits by address are off: all nodes behind one NAT have the same one, and
	// nobody but a member gets further than the handshake.
	unlimited := []rcmgr.ConnLimitPerSubnet{{PrefixLength: 0, ConnCount: math.MaxInt}}
	m, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits),
		rcmgr.WithLimitPerSubnet(unlimited, unlimited),
		rcmgr.WithConnRateLimiters(&rate.Limiter{}),
		rcmgr.WithMetricsDisabled())
	if err != nil {
		return nil, fmt.Errorf("making resource manager: %w", err)
	}
	return m, nil
}
