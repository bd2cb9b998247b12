package scheduler

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/scheduler/estimate"
	"github.com/brisk-project/brisk/scheduler/index"
)

// metrics counts what the plugin decides. A nil one counts nothing.
type metrics struct {
	estimates *prometheus.HistogramVec
	decisions *prometheus.CounterVec
	age       prometheus.Histogram
	retries   prometheus.Counter
	errors    prometheus.Histogram
	actual    prometheus.Histogram
}

func newMetrics(registerer prometheus.Registerer, x *index.Index) (*metrics, error) {
	if registerer == nil {
		return nil, nil //nolint:nilnil // nil is the documented form of counting nothing
	}
	seconds := prometheus.ExponentialBuckets(0.05, 2, 14) // to 410 s
	m := &metrics{
		estimates: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "brisk_scheduler_estimate_seconds", Buckets: seconds,
			Help: "Estimated time to ready on the node that was chosen, by what it is made of.",
		}, []string{"term"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_scheduler_decisions_total",
			Help: "Pods by what the node that was chosen had of their images: warm, partial, cold, or unknown if no node is known to have any.",
		}, []string{"state"}),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "brisk_scheduler_state_age_seconds", Buckets: prometheus.ExponentialBuckets(0.5, 2, 13), // to 2048 s
			Help: "Age of the report of the node that was chosen.",
		}),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "brisk_scheduler_shortlist_retries_total",
			Help: "Cycles in which no node of a shortlist could take the pod, so that it got another one.",
		}),
		errors: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "brisk_scheduler_estimate_error_seconds", Buckets: []float64{-60, -30, -10, -5, -2, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 2, 5, 10, 30, 60},
			Help: "Time to ready that a node reports, less what was estimated.",
		}),
		actual: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "brisk_scheduler_actual_seconds", Buckets: seconds,
			Help: "Time to ready that a node reports.",
		}),
	}
	err := errors.Join(
		registerer.Register(m.estimates), registerer.Register(m.decisions), registerer.Register(m.age),
		registerer.Register(m.retries), registerer.Register(m.errors), registerer.Register(m.actual),
		registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "brisk_scheduler_promised_bytes", Help: "Bytes reserved on nodes for scheduled pods that the nodes have not reported yet.",
		}, func() float64 { return reserved(x) })),
		registerer.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "brisk_scheduler_reporting_nodes", Help: "Nodes of which there is a report.",
		}, func() float64 { return float64(len(x.Names())) })),
	)
	return m, err
}

func reserved(x *index.Index) float64 {
	var sum float64
	for _, bytes := range x.Reserved() {
		sum += float64(bytes)
	}
	return sum
}

func (m *metrics) decided(answer index.Estimate) {
	if m == nil {
		return
	}
	for term, took := range map[string]time.Duration{
		"queued": answer.ReadyTime.Queued, "peers": answer.ReadyTime.Peers, "registry": answer.ReadyTime.Registry, "total": answer.ReadyTime.Total(),
	} {
		m.estimates.WithLabelValues(term).Observe(took.Seconds())
	}
	state := "cold"
	for _, image := range answer.Images {
		if image.Known {
			state = "partial"
		}
	}
	if answer.ReadyTime.Total() < estimate.Resolution {
		state = "warm"
	}
	m.decisions.WithLabelValues(state).Inc()
	if answer.Age > 0 {
		m.age.Observe(answer.Age.Seconds())
	}
}

func (m *metrics) unknown() {
	if m != nil {
		m.decisions.WithLabelValues("unknown").Inc()
	}
}

func (m *metrics) short() {
	if m != nil {
		m.retries.Inc()
	}
}

func (m *metrics) finished(starts []index.Start) {
	if m == nil {
		return
	}
	for _, start := range starts {
		m.actual.Observe(start.Actual.Seconds())
		m.errors.Observe((start.Actual - start.Estimated).Seconds())
	}
}
