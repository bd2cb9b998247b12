package nodeblocks

import (
	"math/rand/v2"
	"time"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

// The defaults of [ScheduleConfig], and limits that are not configurable.
const (
	// defaultInterval is the minimum time between two writes of a node.
	defaultInterval = 10 * time.Second
	// defaultSettle is the delay of good news. Most starts of an image are over by then, so
	// they need one write.
	defaultSettle = 5 * time.Second
	// defaultResend is the maximum time between two writes of a node. The scheduler does not
	// trust older reports.
	defaultResend = 10 * time.Minute

	// startsWait is the maximum delay of start-ups. They are only for statistics, and most are
	// written together with a change of their image.
	startsWait = 2 * time.Minute

	// minMove is the minimum change of a size of an image that is reported, in bytes. The
	// change must also be a tenth of the size.
	minMove = 8 << 20
	// jitter is the maximum deviation of a time from its setting, so that agents that were
	// started together do not write together.
	jitter = 0.2
)

// ScheduleConfig configures a [WriteSchedule]. The zero value suits a cluster of thousands of nodes.
type ScheduleConfig struct {
	// MinInterval is the minimum time between two writes, plus up to a fifth. Zero means 10 s.
	MinInterval time.Duration
	// Debounce is the delay of good news, such as newly cached data, so that one write contains
	// more of it. Zero means 5 s.
	Debounce time.Duration
	// MaxInterval is the maximum time between two writes, minus up to a fifth. Zero means 10 min.
	MaxInterval time.Duration
}

// Report is the state of an agent at one time. The publisher sets name, image count, packed
// images, zone and time of Status.
type Report struct {
	Status v1alpha1.NodeBlocksStatus
	Images []v1alpha1.ImageBlocks
}

// urgency is how soon a change is to be known.
type urgency int

const (
	never urgency = iota
	soon          // good news: somebody would profit
	now           // bad news: somebody relies on what is not so
)

// WriteSchedule decides when the reports of one node are written. It is not safe for
// concurrent use. The caller passes all times.
type WriteSchedule struct {
	rules  ScheduleConfig
	random func() float64 // at least 0 and below 1

	wrote    bool
	at       time.Time // of the last write
	sent     Report
	told     time.Time                                  // when the newest start-up that was sent had finished
	images   map[v1alpha1.ImageKey]v1alpha1.ImageBlocks // of sent
	earliest time.Time                                  // of the next write
	latest   time.Time                                  // of the next write, though nothing changes
	news     time.Time                                  // since when there is good news; zero for none
}

// NewWriteSchedule returns the schedule of an agent that has not written yet. Random returns
// numbers from 0 to below 1; nil means real ones.
func NewWriteSchedule(rules ScheduleConfig, random func() float64) *WriteSchedule {
	if rules.MinInterval == 0 {
		rules.MinInterval = defaultInterval
	}
	if rules.Debounce == 0 {
		rules.Debounce = defaultSettle
	}
	if rules.MaxInterval == 0 {
		rules.MaxInterval = defaultResend
	}
	if random == nil {
		random = rand.Float64
	}
	return &WriteSchedule{rules: rules, random: random}
}

// Due reports whether to write report now.
func (p *WriteSchedule) Due(at time.Time, report Report) bool {
	if !p.wrote {
		return true
	}
	if at.Before(p.earliest) {
		return false
	}
	switch p.change(report) {
	case now:
		return true
	case soon:
		if p.news.IsZero() {
			p.news = at
		}
		if at.Sub(p.news) >= p.rules.Debounce {
			return true
		}
	case never:
		p.news = time.Time{}
	}
	return !at.Before(p.latest) || len(report.Status.Starts) > 0 && at.Sub(p.at) >= startsWait
}

// Unreported returns the start-ups that no written report has contained, the oldest first;
// only the newest few of them.
func (p *WriteSchedule) Unreported(starts []v1alpha1.StartStatus) []v1alpha1.StartStatus {
	var untold []v1alpha1.StartStatus
	for _, start := range starts {
		if start.FinishedAt.After(p.told) {
			untold = append(untold, start)
		}
	}
	return untold[max(0, len(untold)-v1alpha1.MaxStarts):]
}

// RecordWrite updates the schedule after a report was written.
func (p *WriteSchedule) RecordWrite(at time.Time, report Report) {
	p.wrote, p.at, p.sent, p.news = true, at, report, time.Time{}
	for _, start := range report.Status.Starts {
		if start.FinishedAt.After(p.told) {
			p.told = start.FinishedAt.Time
		}
	}
	p.images = make(map[v1alpha1.ImageKey]v1alpha1.ImageBlocks, len(report.Images))
	for _, image := range report.Images {
		p.images[image.Key] = image
	}
	p.earliest = at.Add(p.stretched(p.rules.MinInterval, p.random()))
	p.latest = at.Add(p.stretched(p.rules.MaxInterval, -p.random()))
}

// stretched returns a time longer by a part of the jitter.
func (p *WriteSchedule) stretched(d time.Duration, part float64) time.Duration {
	return time.Duration(float64(d) * (1 + jitter*part))
}

// Reset makes the next report due immediately, because the written one is lost.
func (p *WriteSchedule) Reset() { p.wrote = false }

// change returns how urgent the difference between a report and the last written one is.
func (p *WriteSchedule) change(report Report) urgency {
	most := changeOfNode(p.sent.Status, report.Status)
	found := 0
	for _, image := range report.Images {
		before, there := p.images[image.Key]
		if there {
			found++
			most = max(most, changeOfImage(before, image))
		} else {
			most = max(most, soon)
		}
	}
	if found < len(p.images) {
		return now // an image is gone
	}
	return most
}

func changeOfNode(before, after v1alpha1.NodeBlocksStatus) urgency {
	switch {
	case before.Healthy != after.Healthy, before.Message != after.Message,
		before.Backend != after.Backend, before.Version != after.Version, before.Zone != after.Zone,
		before.Cache.CapacityBytes != after.Cache.CapacityBytes, !samePeer(before.Peer, after.Peer):
		return now
	case apart(before.Cache.FreeBytes, after.Cache.FreeBytes, after.Cache.CapacityBytes/10),
		doubled(before.Bandwidth.Peers, after.Bandwidth.Peers), doubled(before.Bandwidth.Registry, after.Bandwidth.Registry):
		return soon
	}
	return never
}

func samePeer(a, b *v1alpha1.PeerStatus) bool {
	return (a == nil) == (b == nil) && (a == nil || peerText(a) == peerText(b))
}

func changeOfImage(before, after v1alpha1.ImageBlocks) urgency {
	least := max(minMove, before.StartupMissing/10)
	switch {
	case before.StartupMissing == 0 && after.StartupMissing > 0,
		after.StartupMissing >= before.StartupMissing+least,
		before.Cached > 0 && after.Cached == 0,
		after.Cached <= before.Cached-max(minMove, before.Cached/10):
		return now // evicted
	case before.StartupMissing > 0 && after.StartupMissing == 0,
		after.StartupMissing <= before.StartupMissing-least,
		before.Cached == 0 && after.Cached > 0, before.Estimated != after.Estimated:
		return soon
	}
	return never
}

// apart says whether two sizes differ by more than some bytes.
func apart(a, b, least int64) bool { return max(a, b)-min(a, b) > least }

// doubled says whether one rate is twice the other, or one of them was not known.
func doubled(a, b int64) bool { return max(a, b) > 0 && max(a, b)/2 >= min(a, b) }
