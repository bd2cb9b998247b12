//go:build !race

package bench

import (
	"testing"
	"time"

	"github.com/brisk-project/brisk/bench/coldstart"
	"github.com/brisk-project/brisk/test/require"
)

const (
	// restarts is how often each arm starts again, in turns.
	restarts = 5
	// maxRestart is what a container on a complete image may take of what it takes under
	// overlayfs: create and start, until the first answer.
	maxRestart = 1.1
	// settled is how long nothing may be written before an image counts as complete.
	settled = 3 * time.Second
)

// BenchmarkRestart starts containers of images that are complete on the node, one after the other
// under overlayfs, EROFS and Brisk: with what the last one has left in the page cache, and
// with nothing in it.
func BenchmarkRestart(b *testing.B) {
	require.Root(b)
	require.Tool(b, "mkfs.erofs")
	for _, w := range workloads() {
		if !selected("BenchmarkRestart", w.name) {
			continue
		}
		b.Run(w.name, func(b *testing.B) {
			s := newStartBench(b, &w)
			scope := newScope(b)
			defer scope.close()
			var again []restartArm
			for _, arm := range startArms() {
				if arm.arm == coldstart.Overlayfs || arm.arm == coldstart.EROFS || arm.arm == coldstart.Auto {
					again = append(again, s.complete(scope, arm))
				}
			}
			for _, cache := range []string{"warm", "dropped"} {
				if selected("BenchmarkRestart", w.name, cache) {
					b.Run(cache, func(b *testing.B) { s.restart(b, again, cache == "dropped") })
				}
			}
		})
	}
}

// restartArm starts a container once and removes it.
type restartArm struct {
	arm   coldstart.Arm
	start func() time.Duration
}

// complete pulls an image, has it loaded completely, and returns how to start it.
func (s *startBench) complete(tb testing.TB, arm startArm) restartArm {
	tb.Helper()
	s.registry.prepare(tb, arm.repository, func(ref string) { arm.prepare(s, tb, ref) })
	dir := shortDir(tb)
	node := s.newNode(tb, &arm, dir)
	image := node.Pull(s.registry.ref(arm.repository))
	again := restartArm{arm: arm.arm, start: func() time.Duration {
		s.workload.free(tb)
		begun := time.Now()
		container := s.create(tb, node, image)
		container.Start()
		s.workload.await(tb, container.Output)
		took := time.Since(begun)
		container.Remove()
		return took
	}}
	again.start()
	last, since := int64(-1), time.Now()
	for time.Since(since) < settled {
		if now := diskUsage(tb, dir); now != last {
			last, since = now, time.Now()
		}
		<-time.After(settled / 10)
	}
	again.start() // on the plain files of the cache
	return again
}

// restart starts all arms in turns and compares them with overlayfs.
func (s *startBench) restart(b *testing.B, again []restartArm, dropped bool) {
	b.Helper()
	took := make(map[coldstart.Arm][]time.Duration)
	for range restarts {
		for _, a := range again {
			if dropped {
				dropCaches(b)
			} else {
				a.start()
			}
			took[a.arm] = append(took[a.arm], a.start())
		}
	}
	base := coldstart.Median(took[coldstart.Overlayfs]).Seconds()
	for _, a := range again {
		total := coldstart.Median(took[a.arm]).Seconds()
		verdict := ""
		if a.arm == coldstart.Auto && total > maxRestart*base {
			verdict = ": missed, the bar is 1.1"
		}
		all := took[a.arm] // sorted by now
		progress("%s again, %s: %.2f s (%.2f-%.2f), %.2f of overlayfs%s", s.workload.name, a.arm, total, all[0].Seconds(), all[len(all)-1].Seconds(), total/base, verdict)
		b.Run(string(a.arm), func(b *testing.B) {
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(total, "s-total")
			b.ReportMetric(total/base, "of-overlayfs")
		})
	}
}
