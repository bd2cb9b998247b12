package snapshotter

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts pulls and mounts. A nil *metrics counts nothing.
type metrics struct {
	pulls  *prometheus.CounterVec
	lookup prometheus.Histogram
	mounts prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	if reg == nil {
		return nil, nil //nolint:nilnil // a nil *metrics is the one that counts nothing
	}
	m := &metrics{
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_snapshotter_pulls_total",
			Help: "Images whose layers are loaded when they are read (lazy), or downloaded in full (plain) and why.",
		}, []string{"mode", "reason"}),
		lookup: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "brisk_snapshotter_lookup_seconds", Help: "Time that a pull waited for the index of its image.",
			Buckets: prometheus.ExponentialBuckets(0.01, 2, 12),
		}),
		mounts: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "brisk_snapshotter_mounts", Help: "Mounts of images that snapshots use, or used a moment ago.",
		}),
	}
	for _, c := range []prometheus.Collector{m.pulls, m.lookup, m.mounts} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of snapshots: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) pulled(lazy bool, reason Reason) {
	if m == nil {
		return
	}
	mode := "plain"
	if lazy {
		mode = "lazy"
	}
	m.pulls.WithLabelValues(mode, string(reason)).Inc()
}

func (m *metrics) lookedUp(took time.Duration) {
	if m == nil {
		return
	}
	m.lookup.Observe(took.Seconds())
}

func (m *metrics) mounted(delta int) {
	if m == nil {
		return
	}
	m.mounts.Add(float64(delta))
}
