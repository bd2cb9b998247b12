// Package estimate says how long a pod would wait for its images on a node.
//
// The time to ready is the sum of three terms:
//
//	queued bytes / bandwidth
//	+ missing bytes that nodes of the zone have / bandwidth between nodes
//	+ missing bytes that only the registry has  / bandwidth of the registry
//
// and its score 100*tau/(tau+T): absolute, so a difference of 50 ms never looks like one of a
// minute. Everything here is a pure function of its arguments, total, and safe for
// concurrent use: whatever a node reports, a time is between 0 and [MaxTime] and a score
// between 0 and [MaxScore].
package estimate

import (
	"math"
	"time"
)

const (
	// MaxTime bounds every term: a node that would take longer is as good as one that never gets there.
	MaxTime = time.Hour
	// MaxScore is the score of a node on which nothing has to be waited for.
	MaxScore = 100
	// Resolution is the step in which times are told apart by [Model.Score]. Nodes that differ by
	// less are equal, and what else the scheduler weighs decides between them.
	Resolution = 250 * time.Millisecond

	// DefaultTau is the time to ready that is worth half of [MaxScore].
	DefaultTau = 5 * time.Second
	// DefaultPeers is the bandwidth between nodes, in bytes per second, assumed for a node that
	// has not measured it: a gigabit.
	DefaultPeers = 125_000_000
	// DefaultRegistry is that from the registry: half of it.
	DefaultRegistry = 62_500_000
)

// Bytes is an amount of data by where it comes from.
type Bytes struct {
	Peers    int64 `json:"peers"`
	Registry int64 `json:"registry"`
}

// Total is the sum of both, at most math.MaxInt64.
func (b Bytes) Total() int64 {
	peers, registry := max(b.Peers, 0), max(b.Registry, 0)
	if peers > math.MaxInt64-registry {
		return math.MaxInt64
	}
	return peers + registry
}

// Add returns the sum, each part at most math.MaxInt64.
func (b Bytes) Add(other Bytes) Bytes {
	return Bytes{
		Peers:    Bytes{Peers: b.Peers, Registry: other.Peers}.Total(),
		Registry: Bytes{Peers: b.Registry, Registry: other.Registry}.Total(),
	}
}

// Load is what a node has to do before a pod is ready, and how fast it is. Negative amounts
// count as nothing; a bandwidth of 0 or less is not known.
type Load struct {
	// Queued is what is reserved for earlier pods.
	Queued Bytes
	// Missing is what the pod itself still needs.
	Missing Bytes
	// PeerBandwidth and RegistryBandwidth are in bytes per second.
	PeerBandwidth     int64
	RegistryBandwidth int64
}

// ReadyTime is the time to ready by its terms.
type ReadyTime struct {
	Queued   time.Duration `json:"queued"`
	Peers    time.Duration `json:"peers"`
	Registry time.Duration `json:"registry"`
}

// Total is the time to ready.
func (s ReadyTime) Total() time.Duration { return min(s.Queued+s.Peers+s.Registry, MaxTime) }

// Model turns loads into times and scores. Fields that are 0 or less stand for the defaults.
type Model struct {
	Tau time.Duration
	// Peers and Registry, in bytes per second, stand in for what a node has not measured.
	Peers    int64
	Registry int64
}

// Time returns the time to ready under a load.
func (m Model) Time(load Load) ReadyTime {
	peers := positive(load.PeerBandwidth, positive(m.Peers, DefaultPeers))
	registry := positive(load.RegistryBandwidth, positive(m.Registry, DefaultRegistry))
	return ReadyTime{
		Queued:   min(duration(load.Queued.Peers, peers)+duration(load.Queued.Registry, registry), MaxTime),
		Peers:    duration(load.Missing.Peers, peers),
		Registry: duration(load.Missing.Registry, registry),
	}
}

// Score maps a time to ready onto 0 to [MaxScore]; a shorter time never scores less.
func (m Model) Score(total time.Duration) int64 {
	tau := positive(m.Tau, DefaultTau).Seconds()
	t := min(max(total, 0), MaxTime).Round(Resolution).Seconds()
	return int64(math.Round(MaxScore * tau / (tau + t)))
}

// Blend mixes what is believed of a node with what holds for a node of which nothing is
// known. A confidence of 1 or more is the first, of 0, less or NaN the second.
func Blend(believed, unknown ReadyTime, confidence float64) ReadyTime {
	c := min(max(confidence, 0), 1)
	if math.IsNaN(confidence) {
		c = 0
	}
	mix := func(x, y time.Duration) time.Duration {
		return time.Duration(c*float64(x) + (1-c)*float64(y))
	}
	return ReadyTime{
		Queued:   mix(believed.Queued, unknown.Queued),
		Peers:    mix(believed.Peers, unknown.Peers),
		Registry: mix(believed.Registry, unknown.Registry),
	}
}

// Confidence is how much a report of that age is worth: 1 up to fresh, from there falling in a straight
// line, 0 from gone on. A report from the future is fresh: clocks differ.
func Confidence(age, fresh, gone time.Duration) float64 {
	switch {
	case age <= fresh:
		return 1
	case age >= gone:
		return 0
	default:
		return min((float64(gone)-float64(age))/(float64(gone)-float64(fresh)), 1)
	}
}

// duration returns how long bytes take, at most MaxTime. bandwidth is above 0.
func duration(bytes, bandwidth int64) time.Duration {
	seconds := float64(max(bytes, 0)) / float64(bandwidth)
	return time.Duration(min(seconds, MaxTime.Seconds()) * float64(time.Second))
}

func positive[T int64 | time.Duration](x, otherwise T) T {
	if x > 0 {
		return x
	}
	return otherwise
}
