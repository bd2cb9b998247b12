package waterfall_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node/waterfall"
)

const repository = "library/app"

// clock is a time that tests move.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) after(d time.Duration) time.Time {
	c.now = c.now.Add(d)
	return c.now
}

func newRecorder(c *clock) *waterfall.Recorder {
	return waterfall.New(func() time.Time { return c.now })
}

func layer(name string) block.Digest { return block.Sum([]byte(name)) }

func id(name string) waterfall.ID {
	return waterfall.ID{Name: name, Manifest: layer("manifest of " + name)}
}

func only(t *testing.T, r *waterfall.Recorder) waterfall.Start {
	t.Helper()
	all := r.Starts()
	if len(all) != 1 {
		t.Fatalf("%d starts, want 1", len(all))
	}
	return all[0]
}

func TestStart(t *testing.T) {
	c := newClock()
	r := newRecorder(c)
	began := c.now
	// The requests of the look-up end before it is known which image they were for.
	r.RecordRequest(waterfall.Request{Began: began, Path: "/v2/library/app/manifests/v1", Status: 200, Bytes: 500, Duration: time.Millisecond})
	r.RecordRequest(waterfall.Request{Began: began.Add(-time.Second), Path: "/v2/library/app/manifests/v1"})
	r.RecordRequest(waterfall.Request{Began: began, Path: "/v2/library/other/manifests/v1"})
	c.after(time.Second)
	r.BeginStart(id("app"), repository, began)
	r.RecordPhase(id("app"), "resolve", began, c.now)
	r.RecordPreparation(id("app"), []block.Digest{layer("a"), layer("b")})
	r.RecordBlockSource(block.Key{Layer: layer("a"), Index: 0}, waterfall.Registry) // before the mount
	mounting := c.now
	r.RecordMount(id("app"), repository, mounting, []block.Digest{layer("a"), layer("b")})
	r.RecordTrace(id("app"), "list+learnt", 8192)
	r.RecordTrace(id("other"), "registry", 1)
	r.RecordPhase(waterfall.ID{Name: "app"}, "metadata", mounting, c.after(time.Second))
	r.RecordBlockSource(block.Key{Layer: layer("b"), Index: 1}, waterfall.Peers)
	r.RecordRequest(waterfall.Request{Began: mounting, Path: "/v2/library/app/blobs/sha256:00", Range: "bytes=0-9", Status: 206, Bytes: 10})
	r.RecordRequest(waterfall.Request{Began: mounting, Path: "/store/redirected", Status: 200})
	c.after(time.Second)
	r.RecordRead(waterfall.FinishedRead{Layer: layer("a"), Offset: 4096, Length: 8192, Duration: time.Millisecond})
	r.RecordRead(waterfall.FinishedRead{Layer: layer("b"), Offset: block.Size - 1, Length: 2, Duration: 100 * time.Millisecond, Waited: true})
	r.RecordRead(waterfall.FinishedRead{Layer: layer("b"), Offset: 5 * block.Size, Length: 1, Duration: time.Second, Waited: true, Failed: true})
	r.RecordRead(waterfall.FinishedRead{Layer: layer("b"), Offset: 6 * block.Size, Length: 1, Pages: true})
	r.RecordRead(waterfall.FinishedRead{Layer: layer("of another image"), Length: 1})

	s := only(t, r)
	if s.Image != "app" || s.Manifest != id("app").Manifest || !s.Began.Equal(began) || len(s.Layers) != 2 || s.Trace != "list+learnt" || s.TraceBytes != 8192 {
		t.Errorf("start %+v", s)
	}
	if want := []waterfall.Phase{{"resolve", 0, time.Second}, {"metadata", time.Second, time.Second}}; fmt.Sprint(s.Phases) != fmt.Sprint(want) {
		t.Errorf("phases %v, want %v", s.Phases, want)
	}
	want := []waterfall.Read{
		{Layer: 0, Offset: 4096, Length: 8192, At: 3*time.Second - time.Millisecond, Duration: time.Millisecond, From: waterfall.Registry, Prefetched: true},
		{Layer: 1, Offset: block.Size - 1, Length: 2, At: 2900 * time.Millisecond, Duration: 100 * time.Millisecond, Waited: true, From: waterfall.Peers},
		{Layer: 1, Offset: 5 * block.Size, Length: 1, At: 2 * time.Second, Duration: time.Second, Waited: true, Failed: true, From: waterfall.Disk},
		{Layer: 1, Offset: 6 * block.Size, Length: 1, At: 3 * time.Second, From: waterfall.Bundle},
	}
	if fmt.Sprint(s.Reads) != fmt.Sprint(want) {
		t.Errorf("reads\n%+v, want\n%+v", s.Reads, want)
	}
	if len(s.Requests) != 3 || s.Requests[0].Bytes != 500 || s.Requests[1].At != time.Second || s.Requests[2].Path != "/store/redirected" {
		t.Errorf("requests %+v", s.Requests)
	}
	sum := s.Summarize()
	if sum.Reads != 4 || sum.WaitedReads != 2 || sum.WaitTime != time.Second || sum.End != 3*time.Second || sum.RequestBytes != 510 || sum.PrefetchedBytes != 8192 || sum.Bytes[waterfall.Peers] != 2 {
		t.Errorf("summary %+v", sum)
	}
}

// TestPullKeepsTheLastStart pulls an image again without starting it.
func TestPullKeepsTheLastStart(t *testing.T) {
	c := newClock()
	r := newRecorder(c)
	for range 2 {
		r.BeginStart(id("app"), repository, c.now)
		r.RecordMount(id("app"), repository, c.now, []block.Digest{layer("a")})
		r.RecordRead(waterfall.FinishedRead{Layer: layer("a"), Length: 1})
	}
	r.BeginStart(id("app"), repository, c.after(time.Hour))
	r.BeginStart(id("app"), repository, c.after(time.Hour))
	if s := only(t, r); len(s.Reads) != 1 {
		t.Errorf("after a pull the last start has %d reads, want 1", len(s.Reads))
	}
	r.RecordMount(id("app"), repository, c.now, []block.Digest{layer("a")})
	if s := only(t, r); len(s.Reads) != 0 || !s.Began.Equal(c.now) {
		t.Errorf("after a mount it is still the start before: %+v", s)
	}
}

func TestStartEnds(t *testing.T) {
	c := newClock()
	r := newRecorder(c)
	r.RecordMount(id("app"), repository, c.now, []block.Digest{layer("a")})
	for range 40 {
		c.after(time.Second)
		r.RecordRead(waterfall.FinishedRead{Layer: layer("a"), Length: 1})
		r.RecordRequest(waterfall.Request{Began: c.now, Path: "/v2/library/app/blobs/x"})
	}
	if s := only(t, r); len(s.Reads) != 31 || len(s.Requests) != 31 {
		t.Errorf("%d reads and %d requests in the 30 s after the first, want 31", len(s.Reads), len(s.Requests))
	}
	r.RecordMount(id("app"), repository, c.now, []block.Digest{layer("a")})
	if s := only(t, r); len(s.Reads) != 0 {
		t.Errorf("a new mount does not begin a new start: %d reads", len(s.Reads))
	}
}

func TestBounds(t *testing.T) {
	c := newClock()
	r := newRecorder(c)
	for i := range waterfall.MaxStarts + 5 {
		c.after(time.Millisecond)
		r.RecordMount(id(strconv.Itoa(i)), repository, c.now, []block.Digest{layer("a")})
	}
	for range waterfall.MaxEvents + 7 {
		r.RecordRead(waterfall.FinishedRead{Layer: layer("a"), Length: 1})
		r.RecordRequest(waterfall.Request{Began: c.now, Path: "/v2/library/app/blobs/x"})
	}
	all := r.Starts()
	if len(all) != waterfall.MaxStarts {
		t.Fatalf("%d starts are kept, want %d", len(all), waterfall.MaxStarts)
	}
	if all[0].Image != strconv.Itoa(waterfall.MaxStarts+4) || all[len(all)-1].Image != "5" {
		t.Errorf("kept from %s to %s, want the newest, those first", all[0].Image, all[len(all)-1].Image)
	}
	for _, s := range all {
		if len(s.Reads) != waterfall.MaxEvents || len(s.Requests) != waterfall.MaxEvents || s.Dropped != 14 {
			t.Fatalf("%d reads, %d requests, %d dropped", len(s.Reads), len(s.Requests), s.Dropped)
		}
	}
}

func TestNilRecorder(t *testing.T) {
	var r *waterfall.Recorder
	r.BeginStart(id("app"), repository, time.Now())
	r.RecordMount(id("app"), repository, time.Now(), nil)
	r.RecordPreparation(id("app"), nil)
	r.RecordPhase(id("app"), "phase", time.Now(), time.Now())
	r.RecordTrace(id("app"), "list", 1)
	r.RecordRead(waterfall.FinishedRead{})
	r.RecordBlockSource(block.Key{}, waterfall.Registry)
	r.RecordRequest(waterfall.Request{})
	if len(r.Starts()) != 0 {
		t.Error("the nil Recorder has starts")
	}
}

// BenchmarkRead is what recording costs each read that reaches this process: with no
// start, and with one. A read by the kernel takes at least 20,000 ns.
func BenchmarkRead(b *testing.B) {
	for name, starts := range map[string]int{"idle": 0, "starting": 1} {
		b.Run(name, func(b *testing.B) {
			r := waterfall.New(nil)
			layers := make([]block.Digest, 10)
			for i := range layers {
				layers[i] = layer(strconv.Itoa(i))
			}
			done := waterfall.FinishedRead{Layer: layers[9], Length: 4096}
			for i := 0; b.Loop(); i++ {
				if starts > 0 && i%waterfall.MaxEvents == 0 { // what is dropped costs less
					r.RecordMount(id("app"), repository, time.Now(), layers)
				}
				r.RecordRead(done)
			}
		})
	}
}
