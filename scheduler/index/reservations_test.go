package index_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/scheduler/estimate"
)

func TestPromises(t *testing.T) {
	x, c := newIndex()
	for _, node := range []string{"a", "b"} {
		set(t, x, report(t, c, node, has(t, "app", 100*mb, 0), has(t, "other", 50*mb, 0)))
	}
	reserved := func(want map[string]int64) {
		t.Helper()
		if diff := cmp.Diff(want, x.Reserved()); diff != "" {
			t.Error(diff)
		}
	}
	x.Unreserve("never reserved")
	first := ask(t, x, "a", "app")
	x.Reserve("pod-1", first)
	x.Reserve("pod-1", first)
	x.Reserve("pod-1", ask(t, x, "a", "app"))
	reserved(map[string]int64{"a": 100 * mb})

	// The same image is loaded once, another one waits for it.
	if got := ask(t, x, "a", "app").ReadyTime; got != (estimate.ReadyTime{Queued: 2 * time.Second}) {
		t.Errorf("the same image: %+v", got)
	}
	if got := ask(t, x, "a", "other").ReadyTime; got != (estimate.ReadyTime{Queued: 2 * time.Second, Registry: time.Second}) {
		t.Errorf("another image: %+v", got)
	}
	x.Reserve("pod-2", ask(t, x, "a", "app", "other"))
	reserved(map[string]int64{"a": 150 * mb})
	x.Unreserve("pod-1")
	reserved(map[string]int64{"a": 150 * mb})
	x.Reserve("pod-2", ask(t, x, "b", "other"))
	reserved(map[string]int64{"b": 50 * mb})
	x.Unreserve("pod-2")
	x.Unreserve("pod-2")
	reserved(map[string]int64{})

	// A report says what is left of it.
	x.Reserve("pod-3", ask(t, x, "a", "app"))
	c.advance(time.Second)
	set(t, x, report(t, c, "a", has(t, "app", 25*mb, 75*mb)))
	reserved(map[string]int64{"a": 25 * mb})
	c.advance(time.Minute)
	reserved(map[string]int64{})
	if got := ask(t, x, "a", "app").ReadyTime; got.Queued != 0 {
		t.Errorf("an expired reservation still counts: %+v", got)
	}
}

func TestPromisesOfUnknownNodes(t *testing.T) {
	x, c := newIndex()
	set(t, x, report(t, c, "a", has(t, "app", 100*mb, 0)))
	x.Reserve("pod", ask(t, x, "plain", "app"))
	if got := x.Reserved()["plain"]; got != 100*mb {
		t.Errorf("%d bytes are reserved", got)
	}
	if got := ask(t, x, "plain", "app").ReadyTime; got != (estimate.ReadyTime{Queued: 2 * time.Second}) {
		t.Errorf("%+v", got)
	}
	if names := x.Names(); !slices.Equal(names, []string{"a"}) {
		t.Errorf("reports of %v", names)
	}
	x.Unreserve("pod")
	if len(x.Reserved()) != 0 {
		t.Error("something is left of the reservation")
	}
}
