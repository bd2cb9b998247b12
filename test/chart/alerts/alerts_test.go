package alerts

import (
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

// waitsNowAndThen are three hours of a node on which reads wait, but not all the time.
const waitsNowAndThen = "3x4 0 7x3 0 2x4 0 3x4 0 7x3 0 2x4 0 3x4 0 7x3 0 2x4 0 3x4 0 7x3 0 2x4 0 3x4 0 7x3 0 2x4 0 3x4 0x80"

// healthySeries are three hours of a cluster that nobody has to look at: one replica of the
// scheduler is restarting, a registry fails now and then, containers wait for blocks from
// time to time, and a peer was banned yesterday.
const healthySeries = `load 1m
  up{job="brisk-node", node="n1", instance="a"} 1x180
  up{job="brisk-node", node="n2", instance="b"} 1x60 0x5 1x115
  up{job="brisk-scheduler", instance="c"} 1x180
  up{job="brisk-scheduler", instance="d"} 0x180
  brisk_scheduler_reporting_nodes{instance="c"} 2x180
  brisk_lazyfs_reads_waiting{node="n1", instance="a"} ` + waitsNowAndThen + `
  brisk_registry_requests_total{node="n1", instance="a", class="urgent"} 0+60x180
  brisk_registry_failures_total{node="n1", instance="a", reason="timeout"} 0+5x180
  brisk_registry_requests_total{node="n2", instance="b", class="urgent"} 0x180
  brisk_source_corrupt_blocks_total{node="n1", instance="a", source="registry"} 2x180
  brisk_cache_disk_corrupt_blocks_total{node="n1", instance="a"} 4x180
  brisk_cache_disk_failures_total{node="n1", instance="a"} 0x180
  brisk_scrub_disk_suspect{node="n1", instance="a"} 0x180
  brisk_proof_false_indexes_total{node="n1", instance="a"} 1x180
  brisk_p2p_bans_total{node="n1", instance="a"} 1x180
  brisk_cache_disk_evicted_blocks_total{node="n1", instance="a"} 0+60x180
  brisk_cache_disk_bytes{node="n1", instance="a"} 10737418240x180
`

// fault is what an alert is for.
type fault struct {
	series string
	// from is when the fault shows, and until when it does not any more; 0 for never.
	from, until time.Duration
	// node is what the alert names, with the rest of the summary.
	node, summary string
}

func faults() map[string]fault {
	const minute = time.Minute
	return map[string]fault{
		"BriskAgentDown": {
			series: `up{job="brisk-node", node="n1"} 1x180
  up{job="brisk-node", node="n2"} 1x9 0x60 1x110`,
			from: 10 * minute, until: 71 * minute, node: "n2", summary: "The agent of node n2 does not answer",
		},
		"BriskSchedulerDown": {
			series: `up{job="brisk-scheduler", instance="c"} 1x9 0x60 1x110
  up{job="brisk-scheduler", instance="d"} 0x180`,
			from: 10 * minute, until: 71 * minute, summary: "No replica of brisk-scheduler answers",
		},
		"BriskReportsMissing": {
			series: `up{job="brisk-node", node="n1"} 1x180
  up{job="brisk-node", node="n2"} 1x180
  up{job="brisk-node", node="n3"} 0x180
  brisk_scheduler_reporting_nodes{instance="c"} 3x9 1x60 2x110
  brisk_scheduler_reporting_nodes{instance="d"} 0x180`,
			from: 10 * minute, until: 71 * minute, summary: "The scheduler knows less than 90 % of the agents",
		},
		"BriskReadsWaiting": {
			series: `brisk_lazyfs_reads_waiting{node="n1"} ` + waitsNowAndThen + `
  brisk_lazyfs_reads_waiting{node="n2"} 0x9 5x60 0x110`,
			from: 15 * minute, until: 72 * minute, node: "n2", summary: "Containers on n2 wait for blocks all the time",
		},
		"BriskRegistryFailing": {
			series: `brisk_registry_requests_total{node="n1", class="urgent"} 0+600x180
  brisk_registry_failures_total{node="n1", reason="timeout"} 0+30x180
  brisk_registry_requests_total{node="n2", class="urgent"} 0+60x180
  brisk_registry_requests_total{node="n2", class="bulk"} 0+60x180
  brisk_registry_failures_total{node="n2", reason="denied"} 0+8x180
  brisk_registry_failures_total{node="n2", reason="timeout"} 0+8x180`,
			from: 2 * minute, node: "n2", summary: "More than 10 % of the registry requests of n2 fail",
		},
		"BriskWrongBytes": {
			series: `brisk_source_corrupt_blocks_total{node="n1", source="registry"} 1x180
  brisk_source_corrupt_blocks_total{node="n2", source="registry"} 0x9 1x170`,
			from: 10 * minute, until: 70 * minute, node: "n2", summary: "registry sent wrong bytes to n2",
		},
		"BriskCacheDamaged": {
			series: `brisk_cache_disk_corrupt_blocks_total{node="n1"} 1x180
  brisk_cache_disk_failures_total{node="n1"} 1x180
  brisk_cache_disk_corrupt_blocks_total{node="n2"} 1x180
  brisk_cache_disk_failures_total{node="n2"} 0x9 3x170`,
			from: 10 * minute, until: 70 * minute, node: "n2", summary: "The disk of the cache on n2 fails or has lost data",
		},
		"BriskDiskSuspect": {
			series: `brisk_scrub_disk_suspect{node="n1"} 0x180
  brisk_scrub_disk_suspect{node="n2"} 0x9 1x60 0x110`,
			from: 10 * minute, until: 72 * minute, node: "n2", summary: "The disk of the cache on n2 goes on losing data; the node is not ready",
		},
		"BriskFalseIndex": {
			series: `brisk_proof_false_indexes_total{node="n1"} 1x180
  brisk_proof_false_indexes_total{node="n2"} 0x9 1x170`,
			from: 10 * minute, until: 70 * minute, node: "n2", summary: "n2 found a layer index that describes other files than its layer has",
		},
		"BriskPeerBanned": {
			series: `brisk_p2p_bans_total{node="n1"} 1x180
  brisk_p2p_bans_total{node="n2"} 0x9 1x170`,
			from: 10 * minute, until: 70 * minute, node: "n2", summary: "n2 banned a peer for wrong bytes",
		},
		// 40,960 blocks are the whole cache: 114 a minute replace it in 6 hours. The rate is
		// that of an hour.
		"BriskCacheTooSmall": {
			series: `brisk_cache_disk_bytes{node="n1"} 10737418240x180
  brisk_cache_disk_evicted_blocks_total{node="n1"} 0+110x180
  brisk_cache_disk_bytes{node="n2"} 10737418240x180
  brisk_cache_disk_evicted_blocks_total{node="n2"} 0+120x180`,
			from: 58 * minute, node: "n2", summary: "The cache of n2 is replaced within 6 hours",
		},
	}
}

// firing evaluates an alert every minute for three hours as Prometheus does, and calls
// look with what fires.
func firing(t *testing.T, a alert, series string, look func(at time.Duration, alerts []*rules.Alert)) {
	t.Helper()
	storage := promqltest.LoadedStorage(t, series)
	defer storage.Close() //nolint:errcheck // of a test, in a temporary directory
	query := rules.EngineQueryFunc(promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery), storage)
	for at := time.Duration(0); at < 3*time.Hour; at += time.Minute {
		if _, err := a.Eval(t.Context(), 0, time.Unix(0, 0).Add(at), query, nil, 0); err != nil {
			t.Fatalf("after %s: %v", at, err)
		}
		var alerts []*rules.Alert
		for _, active := range a.ActiveAlerts() {
			if active.State == rules.StateFiring {
				alerts = append(alerts, active)
			}
		}
		look(at, alerts)
	}
}

func TestAlertsAreSilentWhileAllIsWell(t *testing.T) {
	for name, a := range chartAlerts(t) {
		firing(t, a, healthySeries, func(at time.Duration, alerts []*rules.Alert) {
			for _, active := range alerts {
				t.Errorf("%s fires after %s: %s", name, at, active.Labels)
			}
		})
	}
}

func TestAlertsFireWhileTheirFaultShows(t *testing.T) {
	all, table := chartAlerts(t), faults()
	for name := range all {
		if _, ok := table[name]; !ok {
			t.Errorf("%s has no fault that it is tested with", name)
		}
	}
	for name, f := range table {
		t.Run(name, func(t *testing.T) {
			a, ok := all[name]
			if !ok {
				t.Fatal("the chart does not have this alert")
			}
			begin, end := f.from+a.hold, f.until
			firing(t, a, "load 1m\n  "+f.series+"\n", func(at time.Duration, alerts []*rules.Alert) {
				// A minute more or less is that of the evaluation.
				should := at > begin+time.Minute && (end == 0 || at < end-3*time.Minute)
				may := at >= begin-time.Minute && (end == 0 || at <= end)
				switch {
				case len(alerts) == 0 && should, len(alerts) > 0 && !may, len(alerts) > 1:
					t.Errorf("%d alerts fire after %s", len(alerts), at)
				case len(alerts) == 1:
					if got := alerts[0].Labels.Get("node"); got != f.node {
						t.Errorf("it is about node %q, want %q", got, f.node)
					}
					if got := alerts[0].Annotations.Get("summary"); got != f.summary {
						t.Errorf("summary %q, want %q", got, f.summary)
					}
				}
			})
		})
	}
}
