package registry

import "time"

const (
	// firstRange is the length of the first ranges, until it is known how fast they come.
	firstRange = 256 << 10
	// minRange and maxRange bound the length of a range.
	minRange = 256 << 10
	maxRange = 4 << 20
	// rangeTime is how long the link takes for a range at least: long beside what a request costs,
	// short enough that the beginning of the blob does not wait for what comes later.
	rangeTime = 10 * time.Millisecond
	// rangeGain is how many times rate x delay of bytes are in flight. A request takes one delay, and in
	// it the rate may double, as connections start slowly: that is four, and the rate is known late.
	rangeGain = 6
	// rangeSpare is how many ranges are in flight besides. When one ends, its connection is idle for a
	// round trip, in which the others fill the link.
	rangeSpare = 3
	// rangeParts is into how many ranges at least is cut what is in flight.
	rangeParts = 6
	// firstWindow is how many bytes are in flight before anything is known, and the least.
	firstWindow = 2 << 20
	// rateSample is the least time over which the rate is measured.
	rateSample = 10 * time.Millisecond
)

// rangeFlow says how much of a blob is to be in flight: it measures how fast bytes come and how
// long an answer takes. The zero value knows nothing yet. It is not safe for concurrent use.
type rangeFlow struct {
	answered bool
	delay    time.Duration // the least until an answer began
	rate     float64       // the highest, in bytes a second
	start    time.Time     // of the sample
	bytes    int
}

// answer notes that an answer began after a time.
func (f *rangeFlow) answer(now time.Time, took time.Duration) {
	if !f.answered {
		f.answered, f.start, f.delay = true, now, took
	}
	f.delay = min(f.delay, took)
}

// add notes that n bytes have come.
func (f *rangeFlow) add(now time.Time, n int) {
	f.bytes += n
	if took := now.Sub(f.start); took >= max(rateSample, f.delay/2) {
		f.rate = max(f.rate, float64(f.bytes)/took.Seconds())
		f.start, f.bytes = now, 0
	}
}

// window returns how many bytes are to be in flight.
func (f *rangeFlow) window() int64 {
	return min(maxUnread, max(firstWindow, int64(f.rate*(rangeGain*f.delay+rangeSpare*rangeTime).Seconds())))
}

// length returns how long the next range is to be.
func (f *rangeFlow) length() int64 {
	if f.rate == 0 {
		return firstRange
	}
	return min(maxRange, max(minRange, f.window()/rangeParts, int64(f.rate*rangeTime.Seconds())))
}
