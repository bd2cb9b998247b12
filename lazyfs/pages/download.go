package pages

import (
	"context"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

const (
	// fetchBytes is the usual size of a fetch of blocks: a gzip frame of an index.
	fetchBytes = 1200 << 10
	// firstWait is how long a read waits before the first frame has arrived: until then, the
	// time of a fetch is unknown.
	firstWait = time.Second
	// slack is how late a frame may be.
	slack = 100 * time.Millisecond
)

// arrival measures the rate at which frames arrive. The zero value is not running.
type arrival struct {
	loads   int
	began   time.Time
	first   time.Duration // until the first frame had arrived, zero before
	arrived int64         // stored bytes
}

func (a *arrival) running() bool { return a.loads > 0 }

func (a *arrival) end() { a.loads = 0 }

func (a *arrival) add(stored int64, now time.Time) {
	if !a.running() {
		return
	}
	if a.first == 0 {
		a.first = max(now.Sub(a.began), 1)
	}
	a.arrived += stored
}

// BeginDownload marks a download of frames as running until the returned function is called. Meanwhile
// reads wait for its frames if that is the fastest way to get their data.
func (s *Set) BeginDownload() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.arrival.loads == 0 {
		s.arrival = arrival{began: time.Now()}
	}
	s.arrival.loads++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.arrival.loads > 0 {
			s.arrival.loads--
		}
		s.wakeLocked()
	}
}

// Await implements [stream.Pages]. Frames arrive in order, so all bytes before a frame must
// arrive first. At the rate of this download so far, this takes
//
//	(bytes that are missing up to the end of the frame) / rate.
//
// A fetch takes own, if that was measured. Otherwise it takes as long as the first frame, plus
// the time for two megabytes at that rate, because it shares the link with the download. The
// read waits while the download is not slower than a fetch, and never more than twice as long
// as expected.
func (s *Set) Await(ctx context.Context, layer block.Digest, off int64, own time.Duration) bool {
	position, _ := s.table.find(layer, off, 1)
	if position < 0 {
		return false
	}
	i := int(position / s.layout.FrameSize)
	start := time.Now()
	for {
		s.mu.RLock()
		here, left, patience := s.state[i] == present && s.file != nil, s.leftLocked(i), s.patienceLocked(own)
		running, changed := s.arrival.running(), s.changed
		s.mu.RUnlock()
		waited := time.Since(start)
		limit := 2*patience + slack - waited
		switch {
		case here:
			return true
		case !running, left > patience, limit <= 0:
			return false
		}
		timer := time.NewTimer(limit)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return false
		}
	}
}

// leftLocked returns how long a frame will take to arrive, 0 if nobody knows.
func (s *Set) leftLocked(i int) time.Duration {
	if s.arrival.arrived == 0 {
		return 0
	}
	missing := int64(0)
	for j := range i + 1 {
		if s.state[j] == absent {
			missing += s.layout.Frames[j].Stored
		}
	}
	return s.arrival.time(missing)
}

// patienceLocked returns how long a fetch would take.
func (s *Set) patienceLocked(own time.Duration) time.Duration {
	switch {
	case own > 0:
		return own
	case s.arrival.arrived == 0:
		return firstWait
	default:
		return s.arrival.first + s.arrival.time(2*fetchBytes)
	}
}

// time returns how long n bytes take.
func (a *arrival) time(n int64) time.Duration {
	return time.Duration(float64(time.Since(a.began)) * float64(n) / float64(a.arrived))
}

var _ stream.Pages = (*Set)(nil)
