//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/brisk-project/brisk/test/cluster"
)

// Of each image startupBytes are read at the start.
const (
	repeats    = 3
	imageBytes = 200 << 20
	linkRate   = "200mbit"
)

// times are how long starts took, by what kind of start it was.
type times map[string][]started

func (m times) add(kind string, s started) { m[kind] = append(m[kind], s) }

// median returns the median times of a kind of start.
func (m times) median(kind string) (running, ready time.Duration) {
	var all [2][]time.Duration
	for _, s := range m[kind] {
		all[0], all[1] = append(all[0], s.running), append(all[1], s.ready)
	}
	slices.Sort(all[0])
	slices.Sort(all[1])
	return all[0][len(all[0])/2], all[1][len(all[1])/2]
}

// TestTimes prints how long pods take to start, behind links as of a small cloud machine.
func TestTimes(t *testing.T) {
	s := deploy(t, 3, "auto")
	s.shape(linkRate)
	all := make(times)
	for i := range repeats {
		a := pushApp(t, s.Cluster, appConfig{name: fmt.Sprintf("lazy%d:1", i), seed: byte(i), rest: imageBytes/2 - startupBytes, more: imageBytes / 2})
		plain := *a
		plain.ref = s.Copy(fmt.Sprintf("lazy%d:1", i), fmt.Sprintf("plain%d:1", i))
		all.add("cold", run(t, s.Cluster, on(a.pod("cold"), "n2")))
		all.add("warm", run(t, s.Cluster, on(a.pod("warm"), "n2")))
		all.add("peers", run(t, s.Cluster, on(a.pod("peers"), "n3")))
		// Nothing else is to be under way.
		for _, n := range s.Nodes[1:] {
			s.Await("all of the image to be on "+n.Name, cluster.Timeout, func(context.Context) (bool, error) {
				return s.missing(s.status(n), a.ref) == 0, nil
			})
		}
		all.add("plain", run(t, s.Cluster, on(plain.pod("plain"), "n1")))
		for _, id := range []string{"cold", "warm", "peers", "plain"} {
			remove(t, s.Cluster, id)
		}
	}
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprint(w, "START\tRUNNING [s]\tREADY [s]\n")
	for _, kind := range []string{"plain", "cold", "peers", "warm"} {
		running, ready := all.median(kind)
		_, printed := fmt.Fprintf(w, "%s\t%.1f\t%.1f\n", kind, running.Seconds(), ready.Seconds())
		err = errors.Join(err, printed)
	}
	if err := errors.Join(err, w.Flush()); err != nil {
		t.Fatal(err)
	}
	t.Logf("image of %d MiB, %d of them read at the start; links of %s; medians of %d\n%s", imageBytes>>20, startupBytes>>20, linkRate, repeats, out.String())
	_, plain := all.median("plain")
	for _, kind := range []string{"warm", "peers"} {
		if _, ready := all.median(kind); ready >= plain {
			t.Errorf("%s takes %s, and plain %s", kind, ready, plain)
		}
	}
}
