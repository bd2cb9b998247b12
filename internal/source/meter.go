package source

import "time"

const (
	// meterWindow is how long throughput is averaged: several round trips of most links.
	meterWindow = 100 * time.Millisecond
	// meterDecay is what a window in which less was delivered leaves of the estimate of
	// what can be: half of it is left after three seconds.
	meterDecay = 0.98
	// leastShare is the part of the throughput that fills get in any case.
	leastShare = 0.25
	// full is the part of the throughput from which on nothing is left over.
	full = 0.9
	// more and less are how the share of fills changes from window to window.
	more, less = 1.25, 0.5
)

// meter estimates how many bytes a second the source below can deliver, and how many
// of them fills may have beside reads. The zero value knows nothing yet.
//
// What reads could have had if it were not for the fills cannot be seen. So the share of
// the fills shrinks as long as everything that can be had is used, and grows when something
// is left over: reads that wait for bandwidth take what becomes free, those that
// wait for round trips do not.
type meter struct {
	start         time.Time // of the window
	total, urgent int       // bytes delivered in it: all, and not by fills
	capacity      float64   // the most that was delivered, by and by forgotten
	share         float64   // of the fills while reads run; 0 if nothing is known
}

// add counts n bytes.
func (m *meter) add(now time.Time, n int, urgent bool) {
	if took := now.Sub(m.start); took >= meterWindow {
		if !m.start.IsZero() && took < 10*meterWindow {
			m.settle(float64(m.total) / took.Seconds())
		}
		m.start, m.total, m.urgent = now, 0, 0
	}
	m.total += n
	if urgent {
		m.urgent += n
	}
}

// settle draws the conclusions from a window.
func (m *meter) settle(rate float64) {
	m.capacity = max(m.capacity*meterDecay, rate)
	switch {
	case m.urgent == 0:
		m.share = m.capacity
	case rate > m.capacity*full:
		m.share = max(m.share*less, m.capacity*leastShare)
	default:
		m.share = min(m.share*more, m.capacity)
	}
}
