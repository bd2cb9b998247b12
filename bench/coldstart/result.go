package coldstart

import (
	"cmp"
	"slices"
	"time"
)

// Run is what one cold start took.
type Run struct {
	Pull   time.Duration // until the image is there as far as the arm wants it
	Create time.Duration // until the container is created
	Ready  time.Duration // from its start until its first right answer

	PullBytes int64 // that the registry had sent when the container was created
	Bytes     int64 // that it had sent when the container was ready
	Requests  int64 // that it had received then

	// Of brisk-node and its children, until the container was ready; 0 without.
	CPU         time.Duration
	MemoryBytes int64 // the largest resident set
}

// Total is the time from the pull until the first answer.
func (r *Run) Total() time.Duration { return r.Pull + r.Create + r.Ready }

// Key names a cell of the table.
type Key struct {
	Workload, Link string
	Arm            Arm
}

// Results are the runs of each cell.
type Results struct {
	Runs   map[Key][]Run
	Limits map[string]Limit // of each image
}

// NewResults returns results without runs.
func NewResults() *Results {
	return &Results{Runs: make(map[Key][]Run), Limits: make(map[string]Limit)}
}

// Add adds a run.
func (r *Results) Add(key Key, run Run) { r.Runs[key] = append(r.Runs[key], run) }

// Total returns the median of the totals of a cell, and whether it has runs.
func (r *Results) Total(key Key) (time.Duration, bool) {
	runs := r.Runs[key]
	return median(runs, (*Run).Total), len(runs) > 0
}

// median returns the median of a figure.
func median[T time.Duration | int64](runs []Run, of func(*Run) T) T {
	values := make([]T, len(runs))
	for i := range runs {
		values[i] = of(&runs[i])
	}
	return Median(values)
}

// Median returns the median of values, which it sorts; of an even number, the larger of the two in the middle.
func Median[T cmp.Ordered](values []T) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	slices.Sort(values)
	return values[len(values)/2]
}
