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

	idleMounts prometheus.Gauge
	reusedIdle prometheus.Counter
	gaveUp     *prometheus.CounterVec
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
			Name: "brisk_snapshotter_mounts", Help: "Mounts of images, those that no snapshot uses included.",
		}),
		idleMounts: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "brisk_snapshotter_idle_mounts", Help: "Mounts of images that no snapshot uses, kept for the next container.",
		}),
		reusedIdle: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "brisk_snapshotter_idle_mounts_reused_total", Help: "Idle mounts that a snapshot was made on.",
		}),
		gaveUp: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_snapshotter_idle_mounts_unmounted_total",
			Help: "Idle mounts that were unmounted, by reason: number, age, pressure, cache, removed, false-index.",
		}, []string{"reason"}),
	}
	for _, c := range []prometheus.Collector{m.pulls, m.lookup, m.mounts, m.idleMounts, m.reusedIdle, m.gaveUp} {
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

func (m *metrics) idle(n int) {
	if m == nil {
		return
	}
	m.idleMounts.Set(float64(n))
}

func (m *metrics) reused() {
	if m == nil {
		return
	}
	m.reusedIdle.Inc()
}

func (m *metrics) unmounted(reason string) {
	if m == nil || reason == "" {
		return
	}
	m.gaveUp.WithLabelValues(reason).Inc()
}
