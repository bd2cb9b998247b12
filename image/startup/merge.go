package startup

import (
	"slices"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// MaxSamples is how many starts of an image a [History] keeps.
	MaxSamples = 8
	// readShare is the share of the starts, as one in so many, that must have read a page for
	// it to be in the merged trace. Loading a page of s bytes beforehand costs s/r on a link
	// of rate r; leaving it out costs s/r and a round trip t, but only if it is read. So it
	// pays if more than 1/(1 + t*r/s) of the starts read it: one in 3 on links of 25 and
	// 100 Mbit/s, less on faster ones.
	readShare = 4
	// shortShare is the part of the merged trace, as one in so many, that a start which ended
	// early must have read to tell that the rest is not needed. Less is most likely a failure.
	shortShare = 2
)

// Sample is what one start of an image has read.
type Sample struct {
	Trace Trace
	// ColdLayers are the layers of which the kernel had nothing in memory before the start, and of
	// which all reads were seen. Only of these is it known what the start did not read.
	ColdLayers []block.Digest
}

// History is what the last starts of an image have read. Its methods do not change it.
type History struct {
	// Image is the digest of the platform manifest of the image, zero if it is not known.
	Image block.Digest
	// Samples are at most [MaxSamples] starts, the oldest first.
	Samples []Sample
}

// Add returns the history with one more start, and whether that is a change. A start that
// ended early, before it was certain to be over, counts as a full one only if it has read much
// of what others have.
//
// A start that was warm, of which no layer was cold, changes nothing unless it has read
// something new.
func (h History) Add(next Sample, endedEarly bool) (History, bool) {
	if len(next.Trace) == 0 {
		return h, false
	}
	before := h.Trace()
	if endedEarly && next.Trace.Bytes() < before.Bytes()/shortShare {
		next.ColdLayers = nil
	}
	if len(next.ColdLayers) == 0 && before.Union(next.Trace).Bytes() == before.Bytes() {
		return h, false
	}
	samples := append(slices.Clone(h.Samples), next)
	for len(samples) > MaxSamples {
		samples = dropOldest(samples)
	}
	return History{Image: h.Image, Samples: samples}, true
}

// dropOldest removes the first sample. Its reads of layers that no later sample knows in full
// go on in the next one: nothing has shown that they are not needed any more.
func dropOldest(samples []Sample) []Sample {
	oldest, rest := samples[0], slices.Clone(samples[1:])
	var kept Trace
	for _, s := range oldest.Trace {
		if !slices.ContainsFunc(rest, func(later Sample) bool { return slices.Contains(later.ColdLayers, s.Layer) }) {
			kept = append(kept, s)
		}
	}
	if len(kept) > 0 {
		rest[0].Trace = kept.Union(rest[0].Trace)
	}
	return rest
}

// Trace returns the merged trace: the pages that at least one in readShare of those starts
// has read that could tell, in the order of the earliest start that has read them.
func (h History) Trace() Trace {
	if len(h.Samples) == 1 {
		return h.Samples[0].Trace
	}
	votes := newVotes(h.Samples)
	var merged Recorder
	for _, sample := range h.Samples {
		for _, s := range sample.Trace {
			for offset := s.Offset; offset < s.End(); offset += PageSize {
				page := Span{Layer: s.Layer, Offset: offset, Length: min(PageSize, s.End()-offset)}
				if votes.keep(page) {
					merged.Add(page)
				}
			}
		}
	}
	return merged.Trace()
}

// page is the name of a page.
type page struct {
	layer  block.Digest
	number int64
}

// votes counts what samples say of pages.
type votes struct {
	cold    map[block.Digest]int // samples that know all reads of a layer
	readers map[page]int         // samples that have read a page
	warm    map[page]int         // those of them that do not know all reads of its layer
}

func newVotes(samples []Sample) votes {
	v := votes{cold: make(map[block.Digest]int), readers: make(map[page]int), warm: make(map[page]int)}
	for _, sample := range samples {
		cold := make(map[block.Digest]struct{}, len(sample.ColdLayers))
		for _, layer := range sample.ColdLayers {
			cold[layer] = struct{}{}
			v.cold[layer]++
		}
		for _, s := range sample.Trace {
			_, known := cold[s.Layer]
			for number := s.Offset / PageSize; number*PageSize < s.End(); number++ {
				p := page{s.Layer, number}
				v.readers[p]++
				if !known {
					v.warm[p]++
				}
			}
		}
	}
	return v
}

func (v votes) keep(s Span) bool {
	p := page{s.Layer, s.Offset / PageSize}
	return v.readers[p]*readShare >= v.cold[s.Layer]+v.warm[p]
}
