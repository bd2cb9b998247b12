// Package estimate computes how long a pod would wait for its images on a node.
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
	// MaxTime is the maximum of every term. Longer times count as never.
	MaxTime = time.Hour
	// MaxScore is the score of a node on which the pod does not wait.
	MaxScore = 100
	// Resolution is the step to which [Model.Score] rounds times. Nodes that differ by less get
	// the same score, and other plugins decide between them.
	Resolution = 250 * time.Millisecond

	// DefaultTimeConstant is the time to ready with half of [MaxScore].
	DefaultTimeConstant = 5 * time.Second
	// DefaultPeerBandwidth is the bandwidth between nodes, in bytes per second, assumed for a node that
	// has not measured it: a gigabit.
	DefaultPeerBandwidth = 125_000_000
	// DefaultRegistryBandwidth is the assumed bandwidth from the registry: half a gigabit.
	DefaultRegistryBandwidth = 62_500_000
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

// Load is the data that a node loads before a pod is ready, and its bandwidths. Negative amounts
// count as 0. A bandwidth of 0 or less is unknown.
type Load struct {
	// Queued is reserved for earlier pods.
	Queued Bytes
	// Missing is needed by the pod itself.
	Missing Bytes
	// PeerBandwidth and RegistryBandwidth are in bytes per second.
	PeerBandwidth     int64
	RegistryBandwidth int64
}

// ReadyTime has the terms of the time to ready.
type ReadyTime struct {
	Queued   time.Duration `json:"queued"`
	Peers    time.Duration `json:"peers"`
	Registry time.Duration `json:"registry"`
}

// Total is the time to ready.
func (s ReadyTime) Total() time.Duration { return min(s.Queued+s.Peers+s.Registry, MaxTime) }

// Model computes times and scores of loads. A field that is 0 or less means its default.
type Model struct {
	TimeConstant time.Duration
	// PeerBandwidth and Registry are the bandwidths, in bytes per second, of nodes that have not
	// measured theirs.
	PeerBandwidth     int64
	RegistryBandwidth int64
}

// Time returns the time to ready under a load.
func (m Model) Time(load Load) ReadyTime {
	peers := positive(load.PeerBandwidth, positive(m.PeerBandwidth, DefaultPeerBandwidth))
	registry := positive(load.RegistryBandwidth, positive(m.RegistryBandwidth, DefaultRegistryBandwidth))
	return ReadyTime{
		Queued:   min(duration(load.Queued.Peers, peers)+duration(load.Queued.Registry, registry), MaxTime),
		Peers:    duration(load.Missing.Peers, peers),
		Registry: duration(load.Missing.Registry, registry),
	}
}

// Score maps a time to ready onto 0 to [MaxScore]; a shorter time never scores less.
func (m Model) Score(total time.Duration) int64 {
	tau := positive(m.TimeConstant, DefaultTimeConstant).Seconds()
	t := min(max(total, 0), MaxTime).Round(Resolution).Seconds()
	return int64(math.Round(MaxScore * tau / (tau + t)))
}

// Blend interpolates between the reported time of a node and the time of an unknown node. A
// confidence of 1 or more returns the first; 0, less or NaN returns the second.
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

// Confidence returns the confidence in a report of an age: 1 up to fresh, then linearly falling to 0
// at gone. A report from the future is fresh, because clocks differ.
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
