package scrub

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
)

// Status is the status of a [Scrubber].
type Status struct {
	Paused bool `json:"paused"`
	// Running says that a pass is going on. It began at PassStarted and has read
	// CheckedBytes of TotalBytes.
	Running      bool      `json:"running"`
	PassStarted  time.Time `json:"passStarted,omitzero"`
	CheckedBytes int64     `json:"checkedBytes"`
	TotalBytes   int64     `json:"totalBytes"`
	// LastPass is when the last pass ended, NextPass when the next one begins.
	LastPass time.Time `json:"lastPass,omitzero"`
	NextPass time.Time `json:"nextPass,omitzero"`
	// FoundBlocks and RepairedBlocks count the corrupt blocks found and repaired so far.
	FoundBlocks    int64 `json:"foundBlocks"`
	RepairedBlocks int64 `json:"mendedBlocks"`
	// Corrupt are the corrupt blocks of the last 30 days and all that are not mended yet.
	Corrupt []CorruptBlock `json:"corrupt"`
	// Suspect says why the disk is not to be relied on; empty if nothing speaks against it.
	Suspect string `json:"suspect,omitempty"`
}

// CorruptBlock is a block that was found corrupt.
type CorruptBlock struct {
	Layer block.Digest `json:"layer"`
	Block uint32       `json:"block"`
	// Images has the names of the images with that layer.
	Images []string `json:"images,omitempty"`
	// Times is how often the block was found corrupt, and Last when; both are zero for
	// one that was never written whole.
	Times int       `json:"times"`
	Last  time.Time `json:"last,omitzero"`
	// Repaired says that it was fetched again and read back, and Stale that programs still see
	// the corrupt bytes in pages that they have mapped. If it is not mended, Error is that of the
	// last attempt, and Mapped says that mounts read the corrupt bytes.
	Repaired        bool   `json:"mended"`
	Error           string `json:"error,omitempty"`
	DirectlyMounted bool   `json:"mapped,omitempty"`
	Stale           bool   `json:"stale,omitempty"`
}

// Status returns what the Scrubber is doing. It does not know the names of images.
func (s *Scrubber) Status() Status {
	total := s.cfg.Disk.Usage().Bytes
	s.mu.Lock()
	defer s.mu.Unlock()
	status := Status{
		Paused: s.state.Paused, Running: s.state.inPass(), PassStarted: s.state.PassStarted,
		CheckedBytes: s.state.CheckedBytes, TotalBytes: max(total, s.state.CheckedBytes), LastPass: s.state.LastPass,
		FoundBlocks: s.state.Found, RepairedBlocks: s.state.Mended, Suspect: s.state.Suspect, Corrupt: []CorruptBlock{},
	}
	if s.cfg.Interval > 0 && !status.Running {
		status.NextPass = s.state.PassStarted.Add(s.cfg.Interval)
	}
	known := make(map[block.Key]bool)
	for _, b := range s.state.Bad {
		k := block.Key{Layer: b.Layer, Index: b.Block}
		entry := CorruptBlock{Layer: b.Layer, Block: b.Block, Times: b.Times, Last: b.Last, Repaired: b.Mended, Images: b.Images}
		_, entry.Stale = s.stale[k]
		if r := s.repairs[k]; r != nil {
			entry.Repaired, entry.Error, entry.DirectlyMounted = false, r.err, r.mapped
		}
		known[k] = true
		status.Corrupt = append(status.Corrupt, entry)
	}
	for k, r := range s.repairs {
		if !known[k] {
			status.Corrupt = append(status.Corrupt, CorruptBlock{Layer: k.Layer, Block: k.Index, Error: r.err, DirectlyMounted: r.mapped})
		}
	}
	slices.SortFunc(status.Corrupt, func(a, b CorruptBlock) int {
		return cmp.Or(b.Last.Compare(a.Last), slices.Compare(a.Layer[:], b.Layer[:]), cmp.Compare(a.Block, b.Block))
	})
	return status
}

type metrics struct {
	checked, cpu, bad, mended prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Scrubber) metrics {
	factory := promauto.With(reg)
	gauge := func(name, help string, value func() float64) {
		factory.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	counter := func(name, help string) prometheus.Counter {
		return factory.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge("brisk_scrub_pending_blocks", "Corrupt blocks of the disk cache that are not mended yet.", func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.repairs))
	})
	gauge("brisk_scrub_stale_blocks", "Mended blocks of which programs still see the corrupt bytes, in pages that they have mapped.", func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.stale))
	})
	gauge("brisk_scrub_disk_suspect", "1 if the disk of the cache is not to be relied on.", func() float64 {
		if s.Suspect() != "" {
			return 1
		}
		return 0
	})
	gauge("brisk_scrub_last_pass_timestamp_seconds", "When everything had been read last, in Unix time; 0 for never.", func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.state.LastPass.IsZero() {
			return 0
		}
		return float64(s.state.LastPass.Unix())
	})
	return metrics{
		checked: counter("brisk_scrub_checked_bytes_total", "Bytes of the disk cache that were read back and right."),
		cpu:     counter("brisk_scrub_cpu_seconds_total", "CPU time that reading back and hashing took."),
		bad:     counter("brisk_scrub_corrupt_blocks_total", "Blocks of the disk cache that the disk has changed."),
		mended:  counter("brisk_scrub_mended_blocks_total", "Corrupt blocks that were fetched again and written over."),
	}
}
