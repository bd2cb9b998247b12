package stream

import "slices"

// batchSize is of how many values a median is taken: a few of them are always far off.
const batchSize = 5

// minMedian is the least median of a few values each. The zero value has none yet.
type minMedian struct {
	values []float64
	least  float64
}

// add takes a value.
func (b *minMedian) add(v float64) {
	if b.values = append(b.values, v); len(b.values) < batchSize {
		return
	}
	slices.Sort(b.values)
	if median := b.values[batchSize/2]; b.least == 0 || median < b.least {
		b.least = median
	}
	b.values = b.values[:0]
}

// early returns the least value before there is a median, and the median after that.
func (b *minMedian) early() float64 {
	if b.least == 0 && len(b.values) > 0 {
		return slices.Min(b.values)
	}
	return b.least
}

// median returns the least median so far, 0 before there is one.
func (b *minMedian) median() float64 { return b.least }
