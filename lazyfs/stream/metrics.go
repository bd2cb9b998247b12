package stream

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
)

// The results a read can have.
const (
	resultLocal   = "local"   // answered from the local cache
	resultFetched = "fetched" // waited for a source
	resultError   = "error"   // failed
)

// metrics counts reads. A nil *metrics counts nothing.
type metrics struct {
	bytes   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	pending prometheus.Gauge
	ahead   *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	if reg == nil {
		return nil, nil //nolint:nilnil // a nil *metrics is the one that counts nothing
	}
	m := &metrics{
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_lazyfs_read_bytes_total", Help: "Bytes of layer streams handed to readers.",
		}, []string{"result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "brisk_lazyfs_read_seconds", Help: "Time that reads of layer streams took.",
			Buckets: prometheus.ExponentialBuckets(50e-6, 4, 11),
		}, []string{"result"}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "brisk_lazyfs_reads_waiting", Help: "Reads that wait for blocks now.",
		}),
		ahead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_lazyfs_background_bytes_total", Help: "Bytes fetched before anybody asked for them.",
		}, []string{"class"}),
	}
	for _, c := range []prometheus.Collector{m.bytes, m.seconds, m.pending, m.ahead} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of reads: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) read(result string, n int, took time.Duration) {
	if m == nil {
		return
	}
	m.bytes.WithLabelValues(result).Add(float64(n))
	m.seconds.WithLabelValues(result).Observe(took.Seconds())
}

func (m *metrics) waiting(delta int) {
	if m == nil {
		return
	}
	m.pending.Add(float64(delta))
}

func (m *metrics) background(class block.Class, n int) {
	if m == nil {
		return
	}
	m.ahead.WithLabelValues(class.String()).Add(float64(n))
}
