package registry

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
)

// SourceStats counts what a source has asked of registries since it was made.
type SourceStats struct {
	Requests int64 // requests for ranges of blobs
	Bytes    int64 // bytes of blobs received, headers not included
}

// Stats returns the counters.
func (s *Source) Stats() SourceStats {
	return SourceStats{Requests: s.metrics.requestsTotal.Load(), Bytes: s.metrics.bytesTotal.Load()}
}

type sourceMetrics struct {
	requestsTotal atomic.Int64
	bytesTotal    atomic.Int64

	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	failures *prometheus.CounterVec
}

func newSourceMetrics(r prometheus.Registerer) *sourceMetrics {
	factory := promauto.With(r)
	return &sourceMetrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_registry_requests_total",
			Help: "Requests for ranges of layer blobs, by what they were for.",
		}, []string{"class"}),
		bytes: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_registry_received_bytes_total",
			Help: "Bytes of layer blobs received from registries, by what they were for.",
		}, []string{"class"}),
		failures: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_registry_failures_total",
			Help: "Requests for ranges of layer blobs that failed, by reason.",
		}, []string{"reason"}),
	}
}

func (m *sourceMetrics) request(class block.Class) {
	m.requestsTotal.Add(1)
	m.requests.WithLabelValues(class.String()).Inc()
}

func (m *sourceMetrics) received(class block.Class, n int) {
	m.bytesTotal.Add(int64(n))
	m.bytes.WithLabelValues(class.String()).Add(float64(n))
}

func (m *sourceMetrics) finished(err error) {
	if err == nil || errors.Is(err, errUnwanted) {
		return
	}
	m.failures.WithLabelValues(reason(err)).Inc()
}

// reason has few values, for a label.
func reason(err error) string {
	if _, ok := errors.AsType[*sinkError](err); ok {
		return "sink"
	}
	switch {
	case errors.Is(err, block.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, block.ErrNotFound):
		return "not_found"
	case errors.Is(err, block.ErrCorrupt), errors.Is(err, ErrInvalid):
		return "corrupt"
	case errors.Is(err, ErrDenied):
		return "denied"
	case errors.Is(err, ErrNoRanges):
		return "no_ranges"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "cancelled"
	default:
		return "other"
	}
}
