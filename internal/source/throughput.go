package source

import "time"

const (
	// meterWindow is the time over which throughput is averaged: several round trips of most links.
	meterWindow = 100 * time.Millisecond
	// meterDecay is the factor by which the estimated capacity falls in a window with a lower
	// throughput: it halves in about three seconds.
	meterDecay = 0.98
	// minShare is the part of the capacity that fills always get.
	minShare = 0.25
	// saturation is the part of the capacity above which nothing is left for fills.
	saturation = 0.9
	// growFactor and shrinkFactor are how the share of fills changes from window to window.
	growFactor, shrinkFactor = 1.25, 0.5
)

// meter estimates the capacity of the source below in bytes per second, and the share of it
// that fills may use while reads run. The zero value is ready.
//
// The bandwidth that reads would use without fills cannot be measured. So the share of the
// fills shrinks while the whole capacity is used, and grows while some of it is unused:
// reads that wait for bandwidth use what becomes free, reads that wait for round trips do
// not.
type meter struct {
	start         time.Time // of the window
	total, urgent int       // bytes delivered in it: all, and those not for fills
	capacity      float64   // highest throughput, bytes per second, with decay
	share         float64   // of the fills while reads run, bytes per second; 0 if unknown
}

// add counts n bytes.
func (m *meter) add(now time.Time, n int, urgent bool) {
	if took := now.Sub(m.start); took >= meterWindow {
		if !m.start.IsZero() && took < 10*meterWindow {
			m.updateShare(float64(m.total) / took.Seconds())
		}
		m.start, m.total, m.urgent = now, 0, 0
	}
	m.total += n
	if urgent {
		m.urgent += n
	}
}

// updateShare updates capacity and share from the throughput of a window.
func (m *meter) updateShare(rate float64) {
	m.capacity = max(m.capacity*meterDecay, rate)
	switch {
	case m.urgent == 0:
		m.share = m.capacity
	case rate > m.capacity*saturation:
		m.share = max(m.share*shrinkFactor, m.capacity*minShare)
	default:
		m.share = min(m.share*growFactor, m.capacity)
	}
}
