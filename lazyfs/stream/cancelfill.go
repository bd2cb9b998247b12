package stream

import (
	"context"
	"errors"
	"time"
)

const (
	// yieldTime is how long the link may need for what is left of the fill's requests when a read
	// waits. What takes longer is given up.
	yieldTime = 100 * time.Millisecond
	// yieldWait is how long a read waits before that, if it is not known what a round trip takes.
	yieldWait = 50 * time.Millisecond
	// yieldMost is how often a request of the fill is given up. After that it is sent to stay, or the
	// fill would never get on beside a program that reads all the time.
	yieldMost = 2
	// yieldRest is how long the fill waits after that for reads to end.
	yieldRest = time.Second
)

// errYield is the cause with which a request of the fill ends that a read needs the link of.
var errYield = errors.New("a read needs the link")

// sent is a request of the fill in flight.
type sent struct {
	left   int // bytes that have not come
	cancel context.CancelCauseFunc
	stays  bool // it is not given up
}

// send notes a request of the fill for n bytes. The context ends when it has to be given up, which it is
// not if it stays.
func (s *fillThrottle) send(ctx context.Context, n int, stays bool) (context.Context, *sent) {
	ctx, cancel := context.WithCancelCause(ctx)
	f := &sent{left: n, cancel: cancel, stays: stays}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fills[f] = struct{}{}
	return ctx, f
}

// arrived notes that n bytes of a request have come.
func (s *fillThrottle) arrived(f *sent, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.left -= n
}

// end ends a request.
func (s *fillThrottle) end(f *sent) {
	f.cancel(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fills, f)
}

// longLocked reports whether the link needs long for what is in flight of the fill.
func (s *fillThrottle) longLocked() bool {
	left := 0
	for f := range s.fills {
		if !f.stays {
			left += f.left
		}
	}
	return float64(left)*s.link.perByte.early() > yieldTime.Seconds()
}

// yieldLocked gives up what is in flight of the fill, if the link needs long for it. Closed connections
// bring nothing more after a round trip. What others wait for comes all the same.
func (s *fillThrottle) yieldLocked() {
	if !s.longLocked() {
		return
	}
	for f := range s.fills {
		if !f.stays {
			f.cancel(errYield)
		}
	}
}

// yieldSoonLocked gives it up when a read has waited for a round trip: it may come sooner, and by then it
// has joined what it needs of it.
func (s *fillThrottle) yieldSoonLocked() (timer *time.Timer) {
	if !s.longLocked() {
		return nil
	}
	wait := yieldWait
	if delay := s.link.delays.early(); delay > 0 {
		wait = time.Duration(delay * float64(time.Second))
	}
	return time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.yieldLocked()
	})
}

// rest waits until no read waits, or for a while.
func (s *fillThrottle) rest(ctx context.Context) {
	end := time.NewTimer(yieldRest)
	defer end.Stop()
	look := time.NewTicker(fillLook)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			s.mu.Lock()
			waiting := s.waiting
			s.mu.Unlock()
			if waiting > 0 {
				continue
			}
		case <-end.C:
		case <-ctx.Done():
		}
		return
	}
}
