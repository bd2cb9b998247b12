package credential

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	lookups  *prometheus.CounterVec
	refused  *prometheus.CounterVec
	renewals *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	factory := promauto.With(r)
	return &metrics{
		lookups: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_credential_lookups_total",
			Help: "Lookups of credentials, by the source asked and the result: found, none, failed, slow.",
		}, []string{"source", "result"}),
		refused: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_credential_refusals_total",
			Help: "Credentials that a registry refused, by their source.",
		}, []string{"source"}),
		renewals: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_credential_renewals_total",
			Help: "Renewals of credentials ahead of their end, by result: renewed, failed.",
		}, []string{"result"}),
	}
}
