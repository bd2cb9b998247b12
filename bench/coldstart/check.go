package coldstart

import (
	"errors"
	"fmt"
)

const (
	// maxAuto is how much later than with [Lazy] a container may be ready with [Auto].
	maxAuto = 1.03
	// minPairs is how many pairs of runs it takes to tell a difference from noise.
	minPairs = 3
)

// Check returns an error for every cell in which an arm of Brisk was slower than
// containerd's EROFS, or [Auto] was later ready than [Lazy] by more than 3 %: by the
// median of what the pairs of a round differ, and in every round. With fewer than three rounds
// that is not judged.
func (r *Results) Check() error {
	var errs []error
	for _, key := range r.keys() {
		if key.Arm == Overlayfs || key.Arm == EROFS {
			continue
		}
		cell := fmt.Sprintf("%s/%s/%s", key.Workload, key.Link, key.Arm)
		took, _ := r.Total(key)
		if rival, ok := r.Total(Key{key.Workload, key.Link, EROFS}); ok && took > rival {
			errs = append(errs, fmt.Errorf("%s: ready after %.2f s, containerd's erofs after %.2f s", cell, took.Seconds(), rival.Seconds()))
		}
		if key.Arm != Auto {
			continue
		}
		if ratio, smallest, pairs := r.pairs(key, Key{key.Workload, key.Link, Lazy}); pairs >= minPairs && ratio > maxAuto && smallest > 1 {
			errs = append(errs, fmt.Errorf("%s: later ready than %s by a factor of %.2f, and in each of %d rounds, want at most %.2f", cell, Lazy, ratio, pairs, maxAuto))
		}
	}
	return errors.Join(errs...)
}

// pairs compares runs of the same rounds: the median of the ratios of their totals, and the smallest.
func (r *Results) pairs(a, b Key) (ratio, smallest float64, n int) {
	first, second := r.Runs[a], r.Runs[b]
	var ratios []float64
	for i := range min(len(first), len(second)) {
		ratios = append(ratios, first[i].Total().Seconds()/second[i].Total().Seconds())
	}
	if len(ratios) == 0 {
		return 0, 0, 0
	}
	ratio = Median(ratios)
	return ratio, ratios[0], len(ratios)
}
