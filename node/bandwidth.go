package node

import (
	"context"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// rateSample is how many bytes make a sample of a rate: so many that it shows what
	// the network can do and not only how far it is.
	rateSample = 4 << 20
	// rateWeight is the weight of the last sample.
	rateWeight = 0.3
)

// rate measures how fast a source delivers while it is being asked: a weighted mean in
// which samples count the less the older they are. The zero value is ready for use.
type rate struct {
	mu      sync.Mutex // guards what follows
	asking  int        // requests under way
	since   time.Time  // when the time up to now was last added to busy
	busy    time.Duration
	bytes   int64 // within busy
	average float64
}

// perSecond returns the rate in bytes, 0 if it is not known.
func (r *rate) perSecond() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int64(r.average)
}

// change counts a request that starts or ends, or bytes that have come.
func (r *rate) change(at time.Time, requests int, bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asking > 0 {
		r.busy += at.Sub(r.since)
	}
	r.since = at
	r.asking += requests
	r.bytes += bytes
	if r.bytes < rateSample || r.busy <= 0 {
		return
	}
	sample := float64(r.bytes) / r.busy.Seconds()
	if r.average == 0 {
		r.average = sample
	}
	r.average += rateWeight * (sample - r.average)
	r.busy, r.bytes = 0, 0
}

// measure returns a source whose rate is measured.
func (r *rate) measure(src block.Source) block.Source { return measured{src, r} }

type measured struct {
	block.Source
	rate *rate
}

// Fetch implements [block.Source].
func (m measured) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	m.rate.change(time.Now(), 1, 0)
	defer func() { m.rate.change(time.Now(), -1, 0) }()
	return m.Source.Fetch(ctx, req, func(k block.Key, data []byte) error {
		m.rate.change(time.Now(), 0, int64(len(data)))
		return sink(k, data)
	})
}
