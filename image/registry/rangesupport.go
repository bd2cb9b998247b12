package registry

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// unrangedFor is for how long a layer is streamed without asking for ranges of it after
	// an answer that showed that there are none.
	unrangedFor = 10 * time.Minute
	// doubtfulFor is the same after answers that were wrong repeatedly, when the whole blob
	// was right.
	doubtfulFor = time.Minute
	// enough is the weight of the failures of one part of a layer after which it is streamed:
	// one that leaves no doubt, two that a client should not meet, three of those that
	// busy registries have.
	enough = 6
	// maxDoubts bounds the parts of a layer whose failures are remembered.
	maxDoubts = 256
)

// ranges is what is known of how a repository serves ranges of a layer. What its answers do not
// show is found out by trying: some proxies fail at every range, in ways that look like those
// of a busy registry, but send the whole blob. The zero value is ready.
type ranges struct {
	mu     sync.Mutex
	until  time.Time   // until when ranges are not asked for
	doubts map[int]int // weight of the failures in a row, by where the fetch began
}

// partOf names the part of the layer that a fetch begins with.
func (l *location) partOf(want block.Range) int { return partOf(l.layer, want) }

func partOf(layer *index.Layer, want block.Range) int {
	part, err := layer.FrameAt(want.Key(0).Offset())
	if err != nil {
		return 0
	}
	return part
}

// unranged reports whether the layer has to be streamed, for the sake of one part.
func (r *ranges) unranged(part int, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return now.Before(r.until) || r.doubts[part] >= enough
}

// note takes the outcome of a fetch of ranges.
func (r *ranges) note(part int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.doubts, part)
		return
	}
	if errors.Is(err, ErrNoRanges) {
		r.until = time.Now().Add(unrangedFor)
	}
	if r.doubts == nil || len(r.doubts) >= maxDoubts {
		r.doubts = make(map[int]int)
	}
	r.doubts[part] += doubt(err)
}

// works says that the whole blob could be read, where ranges could not.
func (r *ranges) works(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.After(r.until) {
		r.until = now.Add(doubtfulFor)
	}
	clear(r.doubts)
}

// doubt weighs a failure of a fetch of ranges.
func doubt(err error) int {
	status, answered := errors.AsType[*StatusError](err)
	switch {
	case errors.Is(err, ErrNoRanges):
		return enough
	case errors.Is(err, errStalled):
		// Who reads has no time for another one.
		return enough
	case answered && (status.Code == http.StatusTooManyRequests || status.Code == http.StatusServiceUnavailable):
		// To ask for more would make it worse.
		return 0
	case errors.Is(err, block.ErrUnavailable):
		return enough / 3
	case errors.Is(err, block.ErrCorrupt), errors.Is(err, ErrInvalid), errors.Is(err, ErrDenied), answered && !errors.Is(err, block.ErrNotFound):
		return enough / 2
	default:
		return 0
	}
}
