//go:build !race

package bench

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/bench/coldstart"
	"github.com/brisk-project/brisk/test/link"
	"github.com/brisk-project/brisk/test/require"
)

// readEverything prints how many bytes the files of an image have. What Node-RED writes
// meanwhile, in /data, does not belong to it.
const readEverything = "busybox find / -xdev -path /data -prune -o -type f -exec /bin/busybox cat {} + | busybox wc -c"

// BenchmarkReadAll pulls an image of Node-RED over 1 Gbit/s and 10 ms, starts it, and has the container
// read every file of it. It fails if one of containerd's own snapshotters was faster in
// the same run: loading lazily is never to be slower, also where everything is read.
func BenchmarkReadAll(b *testing.B) {
	require.Root(b)
	require.Tool(b, "mkfs.erofs")
	w := workloads()[0]
	s := newStartBench(b, &w)
	var l coldstart.Link
	for _, l = range coldstart.Links() {
		if l.Name == "gigabit" {
			break
		}
	}
	took, content := make(map[coldstart.Arm]time.Duration), ""
	for _, arm := range startArms() {
		if !slices.Contains([]coldstart.Arm{coldstart.Overlayfs, coldstart.EROFS, coldstart.Auto, coldstart.FullMode}, arm.arm) {
			continue
		}
		b.Run(string(arm.arm), func(b *testing.B) {
			var sum time.Duration
			for range b.N {
				elapsed, read := s.readAll(b, l, &arm)
				if content == "" {
					content = read
				}
				if read != content {
					b.Errorf("%s: the files have %s bytes, elsewhere %s", arm.arm, read, content)
				}
				sum += elapsed
			}
			took[arm.arm] = sum / time.Duration(b.N)
			b.ReportMetric(took[arm.arm].Seconds(), "s-total")
		})
	}
	for _, rival := range []coldstart.Arm{coldstart.Overlayfs, coldstart.EROFS} {
		for _, arm := range []coldstart.Arm{coldstart.Auto, coldstart.FullMode} {
			ours, measured := took[arm]
			if other, ok := took[rival]; ok && measured && ours > other {
				b.Errorf("%s for %s, %s for %s", ours, arm, other, rival)
			}
		}
	}
}

// readAll returns how long it takes from the pull until everything is read, and what the
// container says it has read.
func (s *startBench) readAll(b *testing.B, l coldstart.Link, arm *startArm) (time.Duration, string) {
	b.Helper()
	s.registry.prepare(b, arm.repository, func(ref string) { arm.prepare(s, b, ref) })
	scope := newScope(b)
	defer scope.close()
	far := link.New(scope, s.registry.server.Addr(), link.Config{BytesPerSecond: l.BytesPerSecond, RoundTrip: l.RoundTrip})
	node := s.newNode(scope, arm, shortDir(scope))
	dropCaches(scope)
	s.registry.warm(scope)
	begun := time.Now()
	image := node.Pull(far.Addr + "/" + path(arm.repository))
	container := s.create(scope, node, image)
	container.Start()
	code, out := container.Exec("read", "/bin/busybox", "sh", "-c", readEverything)
	elapsed := time.Since(begun)
	if code != 0 {
		b.Fatalf("reading everything: exit code %d\n%s", code, out)
	}
	container.Remove()
	return elapsed, strings.TrimSpace(out)
}
