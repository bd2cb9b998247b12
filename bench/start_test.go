//go:build !race

package bench

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/bench/coldstart"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/require"
)

func TestMain(m *testing.M) {
	os.Exit(containerdtest.Main(m.Run))
}

const (
	// roundsEnv is how often each cell runs that -bench names.
	roundsEnv     = "BRISK_BENCH_ROUNDS"
	defaultRounds = 3
	// flagsEnv has further flags of brisk-node for all arms, with spaces between them: for sweeps.
	flagsEnv = "BRISK_BENCH_FLAGS"
	// waterfallEnv names a directory for what brisk-node why says of each start.
	waterfallEnv = "BRISK_BENCH_WATERFALL"
	// outputEnv names a file for the table.
	outputEnv = "BRISK_BENCH_TABLE"
)

// BenchmarkStart pulls images over links, makes a container of each, and starts it until it
// gives its first right answer; see docs/benchmarks.md. All arms of a cell run in
// turns. It fails if containerd's EROFS was faster than Brisk in the same run, or if loading
// an image in the background made its container ready later.
//
// Alone it measures what is in the plan, with -short in the short one. -bench Start/IMAGE/LINK/ARM
// measures every cell that it names.
func BenchmarkStart(b *testing.B) {
	require.Root(b)
	require.Tool(b, "mkfs.erofs")
	plan := startPlan(b)
	quiet, err := coldstart.MeasureProcessorUse(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	before, err := coldstart.ReadProcessorTimes()
	if err != nil {
		b.Fatal(err)
	}
	results := coldstart.NewResults()
	for _, w := range workloads() {
		if !selected("BenchmarkStart", w.name) || plan[w.name] == nil {
			continue
		}
		b.Run(w.name, func(b *testing.B) {
			s := newStartBench(b, &w)
			results.Limits[w.name] = s.limit(b)
			for _, l := range coldstart.Links() {
				if selected("BenchmarkStart", w.name, l.Name) && plan[w.name][l.Name] != nil {
					b.Run(l.Name, func(b *testing.B) { s.link(b, plan, l, results) })
				}
			}
		})
	}
	after, err := coldstart.ReadProcessorTimes()
	if err != nil {
		b.Fatal(err)
	}
	report(b, results, quiet, after.Since(before))
}

// report prints the table, and fails where it has to.
func report(b *testing.B, results *coldstart.Results, quiet, during coldstart.ProcessorUse) {
	b.Helper()
	var out strings.Builder
	if err := results.Write(&out); err != nil {
		b.Fatal(err)
	}
	out.WriteString("machine before: " + quiet.String() + "; during: " + during.String() + "\n")
	if !quiet.Quiet() {
		out.WriteString("THE MACHINE WAS NOT QUIET: these figures are of no use\n")
	}
	fmt.Printf("\n%s\n", &out) //nolint:forbidigo // of a benchmark with others below it, nothing that it logs is printed
	if name := os.Getenv(outputEnv); name != "" {
		if err := os.WriteFile(name, []byte(out.String()), 0o600); err != nil {
			b.Error(err)
		}
	}
	if err := results.Check(); err != nil {
		b.Error(err)
	}
}

// startPlan returns what is to be measured.
func startPlan(b *testing.B) coldstart.Plan {
	b.Helper()
	switch {
	case len(patterns()) > 1:
		n := defaultRounds
		if value := os.Getenv(roundsEnv); value != "" {
			var err error
			if n, err = strconv.Atoi(value); err != nil || n < 1 {
				b.Fatalf("%s: %q is not a number of rounds", roundsEnv, value)
			}
		}
		return coldstart.UniformPlan(n)
	case testing.Short():
		return coldstart.ShortPlan()
	default:
		return coldstart.FullPlan()
	}
}

// link measures the starts over one link.
func (s *startBench) link(b *testing.B, plan coldstart.Plan, l coldstart.Link, results *coldstart.Results) {
	b.Helper()
	arms := slices.DeleteFunc(startArms(), func(a startArm) bool {
		return !selected("BenchmarkStart", s.workload.name, l.Name, string(a.arm)) || plan.Rounds(s.workload.name, l.Name, a.arm) == 0
	})
	for round, ran := 0, true; ran; round++ {
		ran = false
		for i := range arms {
			if round < plan.Rounds(s.workload.name, l.Name, arms[i].arm) {
				run := s.coldStart(b, l, &arms[i])
				results.Add(coldstart.Key{Workload: s.workload.name, Link: l.Name, Arm: arms[i].arm}, run)
				progress("%s %s %s, round %d: pull %.2f s, create %.2f s, ready %.2f s, %.1f MB, %d requests", s.workload.name, l.Name, arms[i].arm, round+1,
					run.Pull.Seconds(), run.Create.Seconds(), run.Ready.Seconds(), float64(run.Bytes)/1e6, run.Requests)
				ran = true
			}
		}
	}
	for i := range arms {
		b.Run(string(arms[i].arm), func(b *testing.B) {
			total, _ := results.Total(coldstart.Key{Workload: s.workload.name, Link: l.Name, Arm: arms[i].arm})
			b.ReportMetric(0, "ns/op") // only what was measured above
			b.ReportMetric(total.Seconds(), "s-total")
		})
	}
}

// progress says what goes on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}

// patterns are the regular expressions of -bench, one for each level.
func patterns() []string {
	value := flag.Lookup("test.bench").Value.String()
	return strings.Split(value, "/")
}

// selected says whether -bench chooses a benchmark. The testing package says it only once
// it runs; here arms that run in turns are chosen before.
func selected(names ...string) bool {
	for i, pattern := range patterns() {
		if i == len(names) {
			break
		}
		matched, err := regexp.MatchString(pattern, names[i])
		if err != nil || !matched {
			return false
		}
	}
	return true
}
