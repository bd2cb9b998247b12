package startup_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

// layers returns the stream IDs of layers.
func layers(names ...string) (ids []block.Digest) {
	for _, name := range names {
		ids = append(ids, pages(name, 0, 1).Layer)
	}
	return ids
}

// cold is a start before which the kernel had nothing of layers a and b in memory.
func cold(spans ...startup.Span) startup.Sample {
	return startup.Sample{Trace: spans, ColdLayers: layers("a", "b")}
}

// history returns a history of starts.
func history(samples ...startup.Sample) (h startup.History) {
	for _, s := range samples {
		h, _ = h.Add(s, false)
	}
	return h
}

func requireTrace(t *testing.T, h startup.History, want ...startup.Span) {
	t.Helper()
	if diff := cmp.Diff(startup.Trace(want), h.Trace()); diff != "" {
		t.Errorf("merged trace:\n%s", diff)
	}
}

func TestPageOfOneStartOfTenIsLeftOut(t *testing.T) {
	t.Parallel()
	usual := cold(pages("a", 0, 10), pages("b", 5, 1))
	odd := cold(pages("a", 0, 10), pages("b", 100, 50), pages("b", 5, 1))
	requireTrace(t, history(usual, odd), pages("a", 0, 10), pages("b", 5, 1), pages("b", 100, 50))
	h := history(usual, usual, odd, usual, usual, usual, usual, usual, usual, usual)
	requireTrace(t, h, usual.Trace...)
	requireTrace(t, history(usual, odd, usual, odd, usual, usual, usual, usual), pages("a", 0, 10), pages("b", 5, 1), pages("b", 100, 50))
	if len(h.Samples) != startup.MaxSamples {
		t.Errorf("%d samples are kept, want %d", len(h.Samples), startup.MaxSamples)
	}
}

func TestOrderIsThatOfTheEarliestStart(t *testing.T) {
	t.Parallel()
	h := history(cold(pages("a", 7, 2), pages("b", 3, 1)), cold(pages("b", 3, 2), pages("a", 0, 1), pages("a", 7, 2)))
	requireTrace(t, h, pages("a", 7, 2), pages("b", 3, 2), pages("a", 0, 1))
}

// TestWarmStartTakesNothingAway starts an image of which the kernel has a part in memory.
func TestWarmStartTakesNothingAway(t *testing.T) {
	t.Parallel()
	full := cold(pages("a", 0, 100), pages("b", 0, 100))
	h := history(full)
	if _, changed := h.Add(startup.Sample{Trace: startup.Trace{pages("a", 0, 3)}}, false); changed {
		t.Error("a start that has read less from memory is a sample")
	}
	for range 3 * startup.MaxSamples { // layer b is that of another image, too, which runs
		h, _ = h.Add(startup.Sample{Trace: startup.Trace{pages("a", 0, 100)}, ColdLayers: layers("a")}, false)
	}
	requireTrace(t, h, full.Trace[1], full.Trace[0]) // b went on in later samples, in front
	h, changed := h.Add(startup.Sample{Trace: startup.Trace{pages("b", 500, 1)}}, false)
	if !changed || h.Trace().Union(startup.Trace{pages("b", 500, 1)}).Bytes() != 201*page {
		t.Errorf("what a warm start reads first is left out: changed %v, %v", changed, h.Trace())
	}
}

func TestFailedStartTakesNothingAway(t *testing.T) {
	t.Parallel()
	full := cold(pages("a", 0, 100))
	h := history(full)
	for range 3 * startup.MaxSamples {
		h, _ = h.Add(cold(pages("a", 0, 10)), true)
	}
	requireTrace(t, h, full.Trace...)
	for range startup.MaxSamples { // a job that ends by itself and has read most of it
		h, _ = h.Add(cold(pages("a", 0, 60)), true)
	}
	requireTrace(t, h, pages("a", 0, 60))
	if _, changed := h.Add(startup.Sample{ColdLayers: layers("a")}, false); changed {
		t.Error("a mount that nobody has read is a start")
	}
}

func TestHistoryKeepsWhatIsEncoded(t *testing.T) {
	t.Parallel()
	h := history(cold(pages("a", 7, 2)), startup.Sample{Trace: startup.Trace{pages("c", 1, 1)}}, cold(pages("a", 7, 3), pages("b", 0, 1)))
	h.Image = block.Sum([]byte("manifest"))
	encoded, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := startup.ParseHistory(encoded)
	if diff := cmp.Diff(h, got); err != nil || diff != "" {
		t.Errorf("error %v\n%s", err, diff)
	}
	image, merged, err := startup.EncodedMergedTrace(encoded)
	if err != nil || image != h.Image {
		t.Errorf("image %s, error %v", image, err)
	}
	if trace, err := startup.Parse(merged); err != nil || !cmp.Equal(trace, h.Trace()) {
		t.Errorf("the merged trace is stored as %v: %v", trace, err)
	}
	var most startup.History
	for range startup.MaxSamples {
		most.Samples = append(most.Samples, startup.Sample{Trace: longest(), ColdLayers: slices.Repeat(layers("a"), startup.MaxLayers)})
	}
	if encoded, err = most.Encode(); err != nil || len(encoded) > startup.MaxHistory {
		t.Errorf("the longest history has %d bytes, the limit is %d: %v", len(encoded), startup.MaxHistory, err)
	}
	most.Samples = append(most.Samples, startup.Sample{})
	if _, err := most.Encode(); err == nil {
		t.Error("a history with a sample too many was encoded")
	}
}

// signed returns a body as an encoded history.
func signed(body []byte) []byte {
	sum := sha256.Sum256(body)
	return slices.Concat([]byte("brisk history 1\n"), sum[:], body)
}

func FuzzParseHistory(f *testing.F) {
	good, err := history(cold(pages("a", 7, 2)), startup.Sample{Trace: startup.Trace{pages("c", 1, 1)}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	empty, err := startup.Trace{}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	image := slices.Concat(make([]byte, 32), []byte{byte(len(empty))}, empty)
	f.Add(good)
	for _, bad := range [][]byte{
		nil, good[:len(good)-1], append(bytes.Clone(good), 0), bytes.Replace(good, []byte("1\n"), []byte("2\n"), 1),
		signed(nil), signed(image), signed(image[:32]), signed(append(bytes.Clone(image[:32]), 200, 1, 5)), signed(append(bytes.Clone(image), 200, 1)), signed(append(bytes.Clone(image), 1, 1, 3)),
		signed(append(bytes.Clone(image), 1, 0, 3, 1)), signed(append(bytes.Clone(image), 1, 0, 1, 1)), make([]byte, startup.MaxHistory+1),
	} {
		if got, err := startup.ParseHistory(bad); err == nil {
			f.Errorf("%.100q was read as %v", bad, got)
		}
		if len(bad) <= startup.MaxHistory {
			f.Add(bad)
		}
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, encoded := range [][]byte{content, signed(content)} {
			got, err := startup.ParseHistory(encoded)
			if err != nil {
				continue
			}
			if image, _, err := startup.EncodedMergedTrace(encoded); err != nil || image != got.Image {
				t.Errorf("the history is of image %s, not %s: %v", image, got.Image, err)
			}
			merged := got.Trace()
			if merged.Bytes() > startup.MaxBlocks*block.Size {
				t.Errorf("the merged trace has %d bytes", merged.Bytes())
			}
			again, err := got.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if back, err := startup.ParseHistory(again); err != nil || !cmp.Equal(got, back) {
				t.Errorf("%v was read as %v: %v", got, back, err)
			}
		}
	})
}
