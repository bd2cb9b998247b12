package p2p

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/p2p/policy"
	"github.com/brisk-project/brisk/p2p/wire"
)

// statuses is the number of known ways a request can end.
const statuses = int(wire.StatusRefused) + 1

// counters count what the node does. They are what [Stats] and the metrics show.
type counters struct {
	received [classes]atomic.Uint64
	sent     [classes]atomic.Uint64
	asks     [classes][policy.Results]atomic.Uint64
	serves   [statuses]atomic.Uint64

	objectsReceived atomic.Uint64
	objectsSent     atomic.Uint64
	bans            atomic.Uint64
}

// asked counts one question to one peer.
func (c *counters) asked(o policy.Outcome) {
	c.received[o.Class].Add(uint64(o.Bytes))
	c.asks[o.Class][o.Result].Add(1)
}

// served counts one request of a peer.
func (c *counters) served(s wire.Status) { c.serves[s].Add(1) }

// Stats is what a node has done since it was made.
type Stats struct {
	// Received and Sent are bytes of verified blocks read from peers and of blocks
	// sent to them, by class.
	Received, Sent [4]uint64
	// ObjectsReceived and ObjectsSent are the same for objects.
	ObjectsReceived, ObjectsSent uint64
	// Asked counts the questions to peers by how they ended. One read may ask
	// several peers.
	Asked [policy.Results]uint64
	// Served counts the requests of peers by how they ended.
	Served [statuses]uint64
	// Bans counts peers banned for wrong bytes, Refused the connections of
	// strangers and banned peers that were turned away.
	Bans, Refused uint64
	// Connected, BackingOff and Banned count peers at this moment.
	Connected, BackingOff, Banned int
}

// ReceivedBytes returns all bytes of verified blocks and objects read from peers.
func (s Stats) ReceivedBytes() uint64 { return sum(s.Received) + s.ObjectsReceived }

// SentBytes returns all bytes of blocks and objects sent to peers.
func (s Stats) SentBytes() uint64 { return sum(s.Sent) + s.ObjectsSent }

func sum(v [4]uint64) uint64 { return v[0] + v[1] + v[2] + v[3] }

// Stats returns the counts so far.
func (n *Node) Stats() Stats {
	s := Stats{
		ObjectsReceived: n.counts.objectsReceived.Load(),
		ObjectsSent:     n.counts.objectsSent.Load(),
		Bans:            n.counts.bans.Load(),
		Refused:         n.gater.refused.Load(),
		Connected:       len(peers{n}.Connected()),
	}
	for c := range classes {
		s.Received[c] = n.counts.received[c].Load()
		s.Sent[c] = n.counts.sent[c].Load()
		for r := range policy.Results {
			s.Asked[r] += n.counts.asks[c][r].Load()
		}
	}
	for i := range s.Served {
		s.Served[i] = n.counts.serves[i].Load()
	}
	s.BackingOff, s.Banned = n.scoreboard.Counts()
	return s
}

// register registers the metrics of a node: its counts, read when they are
// collected. No label depends on who the peers are.
func register(reg prometheus.Registerer, n *Node) error {
	all := []prometheus.Collector{
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "brisk_p2p_object_received_bytes_total", Help: "Bytes of verified objects read from peers.",
		}, value(&n.counts.objectsReceived)),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "brisk_p2p_object_sent_bytes_total", Help: "Bytes of objects sent to peers.",
		}, value(&n.counts.objectsSent)),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "brisk_p2p_bans_total", Help: "Peers banned for wrong bytes.",
		}, value(&n.counts.bans)),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "brisk_p2p_refused_connections_total", Help: "Connections of strangers and banned peers turned away.",
		}, value(&n.gater.refused)),
	}
	for c := range classes {
		labels := prometheus.Labels{"class": block.Class(c).String()}
		all = append(all,
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "brisk_p2p_received_bytes_total", Help: "Bytes of verified blocks read from peers.", ConstLabels: labels,
			}, value(&n.counts.received[c])),
			prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "brisk_p2p_sent_bytes_total", Help: "Bytes of blocks sent to peers.", ConstLabels: labels,
			}, value(&n.counts.sent[c])))
		for r := range policy.Results {
			all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{
				Name: "brisk_p2p_asks_total", Help: "Questions to peers by how they ended.",
				ConstLabels: prometheus.Labels{"class": block.Class(c).String(), "result": policy.Result(r).String()},
			}, value(&n.counts.asks[c][r])))
		}
	}
	for i := range statuses {
		all = append(all, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "brisk_p2p_served_total", Help: "Requests of peers by how they ended.",
			ConstLabels: prometheus.Labels{"status": wire.Status(i).String()},
		}, value(&n.counts.serves[i])))
	}
	for state, count := range map[string]func(Stats) int{
		"connected": func(s Stats) int { return s.Connected },
		"benched":   func(s Stats) int { return s.BackingOff },
		"banned":    func(s Stats) int { return s.Banned },
	} {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "brisk_p2p_peers", Help: "Peers by state.", ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return float64(count(n.Stats())) }))
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("registering metrics of peers: %w", err)
		}
	}
	return nil
}

func value(v *atomic.Uint64) func() float64 {
	return func() float64 { return float64(v.Load()) }
}
