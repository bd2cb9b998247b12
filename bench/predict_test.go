//go:build !race

package bench

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/brisk-project/brisk/bench/coldstart"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/test/require"
)

// leastCovered is the part of the bytes of a recorded start of Redis that has to be predicted.
const leastCovered = 0.8

// BenchmarkPrediction compares what brisk convert predicts of the start of each image with what
// brisk trace records of it. It measures bytes, no time.
func BenchmarkPrediction(b *testing.B) {
	require.Root(b)
	for _, w := range workloads() {
		b.Run(w.name, func(b *testing.B) {
			s := newStartBench(b, &w)
			s.registry.prepare(b, "predicted", func(ref string) { s.predict(b, ref) })
			ref, dir := s.registry.ref("predicted"), shortDir(b)
			s.runBrisk(b, "trace", "export", ref, "-o", filepath.Join(dir, "predicted"))
			s.runBrisk(b, "trace", "--dir", filepath.Join(dir, "node"), "--net", "none", "--until", "port", "--until", "5m", "-o", filepath.Join(dir, "recorded"), ref)
			predicted, recorded := traceOf(b, filepath.Join(dir, "predicted")), traceOf(b, filepath.Join(dir, "recorded"))
			both := recorded.Bytes() + predicted.Bytes() - predicted.Union(recorded).Bytes()
			covered := float64(both) / float64(recorded.Bytes())
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(recorded.Bytes())/1e6, "MB-recorded")
			b.ReportMetric(float64(predicted.Bytes())/1e6, "MB-predicted")
			b.ReportMetric(100*covered, "%-covered")
			b.ReportMetric(100*float64(both)/float64(predicted.Bytes()), "%-right")
			if w.name == coldstart.Redis && covered < leastCovered {
				b.Errorf("%.0f %% of a start were predicted, the least is %.0f %%", 100*covered, 100*leastCovered)
			}
		})
	}
}

// traceOf reads a trace from a file.
func traceOf(tb testing.TB, name string) startup.Trace {
	tb.Helper()
	content, err := os.ReadFile(filepath.Clean(name))
	if err != nil {
		tb.Fatal(err)
	}
	trace, err := startup.Parse(content)
	if err != nil {
		tb.Fatal(err)
	}
	return trace
}
