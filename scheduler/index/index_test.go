package index_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler/estimate"
	"github.com/brisk-project/brisk/scheduler/index"
)

const mb = 1 << 20 // a size that packing does not round

// clock is set by hand.
type clock struct{ now time.Time }

func (c *clock) advance(d time.Duration) { c.now = c.now.Add(d) }

func newIndex() (*index.Index, *clock) {
	c := &clock{now: time.Unix(1_000_000, 0)}
	return index.New(index.Config{
		Model: estimate.Model{PeerBandwidth: 100 * mb, RegistryBandwidth: 50 * mb},
		Now:   func() time.Time { return c.now },
	}), c
}

func digest(image string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(image))) }

func key(tb testing.TB, image string) v1alpha1.ImageKey {
	tb.Helper()
	k, err := v1alpha1.KeyOf(digest(image))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func has(tb testing.TB, image string, missing, cached int64) v1alpha1.ImageBlocks {
	tb.Helper()
	return v1alpha1.ImageBlocks{Key: key(tb, image), StartupMissing: missing, Cached: cached}
}

// report returns what a healthy node of the zone z reports.
func report(tb testing.TB, c *clock, node string, images ...v1alpha1.ImageBlocks) *v1alpha1.NodeBlocks {
	tb.Helper()
	packed, err := v1alpha1.EncodeImages(images)
	if err != nil {
		tb.Fatal(err)
	}
	return &v1alpha1.NodeBlocks{
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Status: v1alpha1.NodeBlocksStatus{
			ObservedAt: metav1.NewTime(c.now), Healthy: true, Zone: "z", Images: packed, ImageCount: int32(len(images)),
			Cache: v1alpha1.CacheStatus{CapacityBytes: 100, FreeBytes: 50},
		},
	}
}

func set(tb testing.TB, x *index.Index, r *v1alpha1.NodeBlocks) index.Change {
	tb.Helper()
	change, err := x.Set(r)
	if err != nil {
		tb.Fatal(err)
	}
	return change
}

func image(tb testing.TB, name string) index.Image {
	tb.Helper()
	return index.Image{Name: name, Keys: []v1alpha1.ImageKey{key(tb, name)}}
}

// ask estimates one node for a pod with images.
func ask(tb testing.TB, x *index.Index, node string, images ...string) index.Estimate {
	tb.Helper()
	var list []index.Image
	for _, name := range images {
		list = append(list, image(tb, name))
	}
	q := x.Query(list)
	if q == nil {
		tb.Fatal("nothing is known")
	}
	answer := q.Estimate([]string{node})[0]
	if total := q.Time(node); total != answer.ReadyTime.Total() {
		tb.Errorf("node %s takes %v or %v", node, total, answer.ReadyTime.Total())
	}
	return answer
}

func TestTerms(t *testing.T) {
	x, c := newIndex()
	set(t, x, report(t, c, "warm", has(t, "app", 0, 300*mb)))
	set(t, x, report(t, c, "half", has(t, "app", 100*mb, 100*mb)))
	far := report(t, c, "far", has(t, "app", 200*mb, 0))
	far.Status.Zone = "elsewhere"
	set(t, x, far)
	alone := report(t, c, "alone", has(t, "app", 100*mb, 100*mb)) // what it lacks, its zone does
	alone.Status.Zone = "island"
	set(t, x, alone)
	set(t, x, report(t, c, "empty"))
	for node, want := range map[string]estimate.ReadyTime{
		"warm":    {},
		"half":    {Peers: time.Second},
		"far":     {Registry: 4 * time.Second},
		"alone":   {Registry: 2 * time.Second},
		"empty":   {Peers: 2 * time.Second}, // the zone has it
		"unknown": {Registry: 4 * time.Second},
	} {
		if diff := cmp.Diff(want, ask(t, x, node, "app").ReadyTime); diff != "" {
			t.Errorf("%s: %s", node, diff)
		}
	}
	if best := x.Query([]index.Image{image(t, "app")}).WarmestNodes(); !slices.Equal(best, []string{"warm"}) {
		t.Errorf("best are %v", best)
	}
	if x.Query([]index.Image{image(t, "other"), {Name: "no keys"}}) != nil {
		t.Error("there is an answer for an image that no node has")
	}
}

func TestOwnBandwidth(t *testing.T) {
	x, c := newIndex()
	fast := report(t, c, "fast", has(t, "app", 100*mb, 0))
	fast.Status.Bandwidth = v1alpha1.BandwidthStatus{Registry: 100 * mb}
	set(t, x, fast)
	if got := ask(t, x, "fast", "app").ReadyTime.Total(); got != time.Second {
		t.Errorf("%v", got)
	}
}

func TestAge(t *testing.T) {
	x, c := newIndex()
	set(t, x, report(t, c, "warm", has(t, "app", 0, 100*mb)))
	c.advance(index.DefaultFreshFor)
	if got := ask(t, x, "warm", "app"); got.ReadyTime.Total() != 0 || got.Confidence != 1 || got.Age != index.DefaultFreshFor {
		t.Errorf("a fresh report: %+v", got)
	}
	c.advance(index.DefaultFreshFor / 2)
	set(t, x, report(t, c, "other", has(t, "app", 100*mb, 0))) // somebody still knows the size
	if got := ask(t, x, "warm", "app"); got.ReadyTime.Total() != time.Second {
		t.Errorf("half way: %+v", got)
	}
	c.advance(index.DefaultFreshFor / 2)
	if got := ask(t, x, "warm", "app"); got.Confidence != 0 || got.ReadyTime != ask(t, x, "nobody", "app").ReadyTime {
		t.Errorf("an old report: %+v", got)
	}
	if best := x.Query([]index.Image{image(t, "app")}).WarmestNodes(); len(best) != 0 {
		t.Errorf("best are %v", best)
	}
}

func TestMalformedReportIsForgotten(t *testing.T) {
	x, c := newIndex()
	set(t, x, report(t, c, "node", has(t, "app", 0, mb)))
	r := report(t, c, "node")
	r.Status.Images = []byte("no list")
	if _, err := x.Set(r); !errors.Is(err, v1alpha1.ErrImages) {
		t.Errorf("error %v", err)
	}
	if x.Query([]index.Image{image(t, "app")}) != nil || x.Health("node").Known {
		t.Error("what the node reported before is still believed")
	}
}

func TestImagesComeAndGo(t *testing.T) {
	x, c := newIndex()
	random := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		var images []v1alpha1.ImageBlocks
		var names []string
		for i := range 20 {
			if random.IntN(2) == 0 {
				names = append(names, strconv.Itoa(i))
				images = append(images, has(t, strconv.Itoa(i), 0, mb))
			}
		}
		set(t, x, report(t, c, "node", images...))
		for i := range 20 {
			known := x.Query([]index.Image{image(t, strconv.Itoa(i))}) != nil
			if known != slices.Contains(names, strconv.Itoa(i)) {
				t.Fatalf("image %d of %v: known is %v", i, names, known)
			}
		}
	}
	x.Delete("node")
	if x.Query([]index.Image{image(t, "1")}) != nil || len(x.Names()) != 0 {
		t.Error("something is left of the node")
	}
}

func TestBetter(t *testing.T) {
	x, c := newIndex()
	if set(t, x, report(t, c, "node")).Improved {
		t.Error("a first report makes nothing better")
	}
	sick := report(t, c, "node")
	sick.Status.Healthy, sick.Status.Message = false, "why"
	if set(t, x, sick).Improved || x.Health("node").Message != "why" {
		t.Error("a sick node is better")
	}
	if !set(t, x, report(t, c, "node")).Improved {
		t.Error("a node that recovers is not better")
	}
	room := report(t, c, "node")
	room.Status.Cache.FreeBytes++
	if !set(t, x, room).Improved {
		t.Error("a node with more room is not better")
	}
	set(t, x, sick)
	if !x.Delete("node") || x.Delete("node") {
		t.Error("what a report keeps away comes back when it is gone, once")
	}
}

func TestStarts(t *testing.T) {
	x, c := newIndex()
	set(t, x, report(t, c, "a", has(t, "app", 100*mb, 0)))
	x.Reserve("pod", ask(t, x, "a", "app"))
	c.advance(3 * time.Second)
	r := report(t, c, "a", has(t, "app", 0, 100*mb))
	r.Status.Starts = []v1alpha1.StartStatus{
		{Image: "nonsense", FinishedAt: metav1.NewMicroTime(c.now)},
		{Image: digest("other"), FinishedAt: metav1.NewMicroTime(c.now), Milliseconds: 1},
		{Image: digest("app"), FinishedAt: metav1.NewMicroTime(c.now), Milliseconds: -1},
		{Image: digest("app"), FinishedAt: metav1.NewMicroTime(c.now), Milliseconds: 2500},
	}
	want := []index.Start{{Estimated: 2 * time.Second, Actual: 2500 * time.Millisecond}}
	if diff := cmp.Diff(want, set(t, x, r).Starts); diff != "" {
		t.Error(diff)
	}
	if again := set(t, x, r).Starts; len(again) != 0 {
		t.Errorf("counted twice: %v", again)
	}
}

// TestLateStarts checks that start-ups count that are reported long after the reservation has expired, of
// warm nodes too.
func TestLateStarts(t *testing.T) {
	x, c := newIndex()
	set(t, x, report(t, c, "a", has(t, "app", 100*mb, 0), has(t, "warm", 0, 100*mb)))
	x.Reserve("pod", ask(t, x, "a", "app"))
	x.Reserve("warm", ask(t, x, "a", "warm"))
	c.advance(10 * time.Minute)
	x.Reserved() // forgets what is over
	r := report(t, c, "a", has(t, "app", 0, 100*mb), has(t, "warm", 0, 100*mb))
	r.Status.Starts = []v1alpha1.StartStatus{
		{Image: digest("app"), FinishedAt: metav1.NewMicroTime(c.now.Add(-time.Minute)), Milliseconds: 2500},
		{Image: digest("warm"), FinishedAt: metav1.NewMicroTime(c.now.Add(-time.Second)), Milliseconds: 100},
	}
	want := []index.Start{
		{Estimated: 2 * time.Second, Actual: 2500 * time.Millisecond}, {Estimated: 2 * time.Second, Actual: 100 * time.Millisecond},
	} // the second pod waits behind the first
	if diff := cmp.Diff(want, set(t, x, r).Starts); diff != "" {
		t.Error(diff)
	}
	// Only the first start after the estimate is one that it was made for.
	r.Status.Starts = []v1alpha1.StartStatus{{Image: digest("app"), FinishedAt: metav1.NewMicroTime(c.now), Milliseconds: 1}}
	if again := set(t, x, r).Starts; len(again) != 0 {
		t.Errorf("counted: %v", again)
	}
}

// TestMoreMissingIsNeverBetter checks that a node that misses more is not estimated to be ready sooner.
func TestMoreMissingIsNeverBetter(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 5))
	amount := func() int64 { return int64(1) << random.IntN(36) }
	for range 3000 {
		x, c := newIndex()
		for i := range 1 + random.IntN(4) {
			r := report(t, c, fmt.Sprint("other-", i), has(t, "app", amount(), amount()))
			r.Status.Zone = strconv.Itoa(random.IntN(2))
			r.Status.Healthy = random.IntN(4) > 0
			set(t, x, r)
		}
		missing := amount()
		before, after := report(t, c, "n", has(t, "app", missing, 0)), report(t, c, "n", has(t, "app", 2*missing, 0))
		before.Status.Zone, after.Status.Zone = "1", "1"
		set(t, x, before)
		short := ask(t, x, "n", "app").ReadyTime.Total()
		set(t, x, after)
		if long := ask(t, x, "n", "app").ReadyTime.Total(); long < short {
			t.Fatalf("time falls from %v to %v", short, long)
		}
	}
}

func FuzzIndex(f *testing.F) {
	packed, err := v1alpha1.EncodeImages([]v1alpha1.ImageBlocks{{Key: 1, StartupMissing: 5, Cached: 7}, {Key: 9}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed, packed, int64(5), int64(-7), int64(0), true, "z")
	f.Add([]byte(nil), packed, int64(-1), int64(1<<62), int64(1<<40), false, "")
	f.Fuzz(func(t *testing.T, first, second []byte, rate, free, age int64, healthy bool, zone string) {
		x, c := newIndex()
		for i, images := range [][]byte{first, second, first} {
			r := &v1alpha1.NodeBlocks{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i%2)}, Status: v1alpha1.NodeBlocksStatus{
				ObservedAt: metav1.NewTime(c.now.Add(-time.Duration(age))), Healthy: healthy || i > 0, Zone: zone, Images: images,
				Bandwidth: v1alpha1.BandwidthStatus{Peers: rate, Registry: -rate},
				Cache:     v1alpha1.CacheStatus{CapacityBytes: rate, FreeBytes: free},
			}}
			if _, err := x.Set(r); err != nil && !errors.Is(err, v1alpha1.ErrImages) {
				t.Error(err)
			}
			known, err := v1alpha1.DecodeImages(images)
			if err != nil || len(known) == 0 {
				continue
			}
			q := x.Query([]index.Image{{Name: "a", Keys: []v1alpha1.ImageKey{known[0].Key, known[len(known)-1].Key}}, {Name: "b"}})
			if q == nil {
				continue
			}
			for j, answer := range q.Estimate(append(q.WarmestNodes(), "n0", "n1", "none")) {
				if total := answer.ReadyTime.Total(); total < 0 || total > estimate.MaxTime {
					t.Errorf("%+v takes %v", answer, total)
				}
				if score := q.Score(answer.ReadyTime.Total()); score < 0 || score > estimate.MaxScore {
					t.Errorf("score %d", score)
				}
				x.Reserve(types.UID(fmt.Sprint(i, j%2)), answer)
			}
			for node, bytes := range x.Reserved() {
				if bytes < 0 {
					t.Errorf("%d bytes are reserved on %s", bytes, node)
				}
			}
		}
		x.Unreserve("00")
		x.Delete("n0")
		x.Delete("n1")
	})
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	x, c := newIndex()
	set(t, x, report(t, c, "n0", has(t, "app", mb, 0)))
	var running sync.WaitGroup
	for worker := range 4 {
		running.Go(func() {
			for i := range 200 {
				node := fmt.Sprint("n", i%3)
				pod := types.UID(fmt.Sprint(worker, i%5))
				if _, err := x.Set(report(t, c, node, has(t, "app", int64(i)*mb, mb))); err != nil {
					t.Error(err)
				}
				if q := x.Query([]index.Image{image(t, "app")}); q != nil {
					q.WarmestNodes()
					q.Time(node)
					x.Reserve(pod, q.Estimate([]string{node})[0])
				}
				x.Health(node)
				x.Reserved()
				x.Unreserve(pod)
				if i%7 == 0 {
					x.Delete(node)
				}
			}
		})
	}
	running.Wait()
}
