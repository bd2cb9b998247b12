package node

import (
	"context"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

const (
	// maxCountedStreams is how many layer streams have counters. The least recently read one
	// is dropped.
	maxCountedStreams = 4096
	// stallAfter is how long a read has to wait for blocks to count as a stall.
	stallAfter = 100 * time.Millisecond
)

// SourceStats counts the bytes that each source has delivered since the node started, and
// the reads that had to wait.
type SourceStats struct {
	// Memory, Disk, Peers and Registry count uncompressed bytes of blocks, Bundle those of
	// pages. What the kernel reads from its own memory, or from files of the cache, is not
	// among them.
	Memory   int64 `json:"memory"`
	Disk     int64 `json:"disk"`
	Bundle   int64 `json:"bundle"`
	Peers    int64 `json:"peers"`
	Registry int64 `json:"registry"`
	// Stalls is how many reads have waited for more than a tenth of a second, StallTime
	// for how long in all, and LongestStall the longest of them.
	Stalls       int64         `json:"stalls"`
	StallTime    time.Duration `json:"stallNanoseconds"`
	LongestStall time.Duration `json:"longestStallNanoseconds"`
}

// add adds the counters of another stream.
func (t *SourceStats) add(other SourceStats) {
	t.Memory += other.Memory
	t.Disk += other.Disk
	t.Bundle += other.Bundle
	t.Peers += other.Peers
	t.Registry += other.Registry
	t.Stalls += other.Stalls
	t.StallTime += other.StallTime
	t.LongestStall = max(t.LongestStall, other.LongestStall)
}

// trafficCounters keeps SourceStats by layer stream.
type trafficCounters struct {
	mu      sync.Mutex
	streams *lru.Cache[block.Digest, *SourceStats] // the counters, too, are guarded by mu
}

func newTrafficCounters() (*trafficCounters, error) {
	streams, err := lru.New[block.Digest, *SourceStats](maxCountedStreams)
	return &trafficCounters{streams: streams}, err
}

// of returns the counters of a stream.
func (t *trafficCounters) of(stream block.Digest) SourceStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	if counted, ok := t.streams.Peek(stream); ok {
		return *counted
	}
	return SourceStats{}
}

// change calls fn with the counters of a stream, locked.
func (t *trafficCounters) change(stream block.Digest, fn func(*SourceStats)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	counted, ok := t.streams.Get(stream)
	if !ok {
		counted = new(SourceStats)
		t.streams.Add(stream, counted)
	}
	fn(counted)
}

// counted is a source that counts delivered bytes in one of the fields.
type counted struct {
	block.Source
	trafficCounters *trafficCounters
	field           func(*SourceStats) *int64
}

// count returns src with its delivered bytes counted.
func (t *trafficCounters) count(src block.Source, field func(*SourceStats) *int64) block.Source {
	return counted{src, t, field}
}

// Fetch implements [block.Source].
func (c counted) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	return c.Source.Fetch(ctx, req, func(k block.Key, data []byte) error {
		c.trafficCounters.change(k.Layer, func(t *SourceStats) { *c.field(t) += int64(len(data)) })
		return sink(k, data)
	})
}

func fromMemory(t *SourceStats) *int64   { return &t.Memory }
func fromDisk(t *SourceStats) *int64     { return &t.Disk }
func fromPeers(t *SourceStats) *int64    { return &t.Peers }
func fromRegistry(t *SourceStats) *int64 { return &t.Registry }

// timed is a source that counts slow reads as stalls, and measures all reads of starts.
type timed struct {
	block.Source
	trafficCounters *trafficCounters
	delays          *delays
}

// Fetch implements [block.Source].
func (s timed) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Class != block.ClassRead {
		return s.Source.Fetch(ctx, req, sink)
	}
	started := time.Now()
	done := s.delays.read(req.Layer, started)
	err := s.Source.Fetch(ctx, req, sink)
	ended := time.Now()
	done(ended)
	if took := ended.Sub(started); took > stallAfter {
		s.trafficCounters.change(req.Layer, func(t *SourceStats) {
			t.Stalls++
			t.StallTime += took
			t.LongestStall = max(t.LongestStall, took)
		})
	}
	return err
}

// countedDisk is the disk cache; it counts the bytes of direct reads.
type countedDisk struct {
	*cache.Disk
	trafficCounters *trafficCounters
}

// ReadAt reads as the disk cache does.
func (d countedDisk) ReadAt(layer block.Digest, p []byte, off int64) (int, error) {
	n, err := d.Disk.ReadAt(layer, p, off)
	if err == nil {
		d.trafficCounters.change(layer, func(t *SourceStats) { t.Disk += int64(n) })
	}
	return n, err
}
