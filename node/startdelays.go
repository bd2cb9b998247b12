package node

import (
	"slices"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// delayWindow is the time after a mount in which waiting reads count as delay of the start.
	delayWindow = 30 * time.Second
	// keptDelays is the maximum number of finished starts in memory.
	keptDelays = 16
	// openDelays is the maximum number of concurrent starts. Further ones are not measured.
	openDelays = 256
)

// StartDelay is the time that a container waited for its image.
type StartDelay struct {
	Image    string // its reference
	Manifest block.Digest
	// Began is the time at which mounting began, Mounting its duration.
	Began    time.Time
	Mounting time.Duration
	// Waited is the total time, up to Finished, in which at least one read of the image
	// waited for blocks.
	Waited   time.Duration
	Finished time.Time
}

// delays measures starts. It is safe for concurrent use.
type delays struct {
	mu   sync.Mutex
	open []*opening
	over []StartDelay
}

// opening is a start that is being measured.
type opening struct {
	StartDelay
	streams []block.Digest
	reading int       // reads that wait
	since   time.Time // when the first of them began
}

// begin begins to measure the start of an image that was mounted just now.
func (s *delays) begin(began, now time.Time, image *Image, streams []block.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(now)
	if len(s.open) == openDelays {
		return
	}
	s.open = append(s.open, &opening{streams: streams, StartDelay: StartDelay{
		Image: image.Name, Manifest: image.Digest, Began: began, Mounting: now.Sub(began), Finished: now.Add(delayWindow),
	}})
}

// read notes that a read begins to wait for a layer stream. The function that it returns
// is to be called when it has what it wants.
func (s *delays) read(stream block.Digest, now time.Time) (done func(now time.Time)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(now)
	var held []*opening
	for _, o := range s.open {
		if !slices.Contains(o.streams, stream) {
			continue
		}
		if o.reading++; o.reading == 1 {
			o.since = now
		}
		held = append(held, o)
	}
	return func(now time.Time) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closeLocked(now)
		for _, o := range held {
			if o.reading--; o.reading == 0 {
				o.Waited += max(0, now.Sub(o.since))
			}
		}
	}
}

// closeLocked ends what is over. A read that still waits then waited until the end.
func (s *delays) closeLocked(now time.Time) {
	for len(s.open) > 0 && !now.Before(s.open[0].Finished) {
		o := s.open[0]
		if o.reading > 0 {
			o.Waited += max(0, o.Finished.Sub(o.since))
		}
		s.over = append(s.over, o.StartDelay)
		s.open = s.open[1:]
	}
	if extra := len(s.over) - keptDelays; extra > 0 {
		s.over = slices.Delete(s.over, 0, extra)
	}
}

// ended returns the starts that are over, the oldest first.
func (s *delays) ended(now time.Time) []StartDelay {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(now)
	return slices.Clone(s.over)
}

// StartDelays returns the newest finished starts of images, the oldest first.
func (n *Node) StartDelays() []StartDelay { return n.delays.ended(time.Now()) }
