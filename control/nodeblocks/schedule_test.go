package nodeblocks_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/control/nodeblocks"
)

const mib = 1 << 20

// reportOf is the report of a healthy node with images.
func reportOf(images ...v1alpha1.ImageBlocks) nodeblocks.Report {
	return nodeblocks.Report{Images: images, Status: v1alpha1.NodeBlocksStatus{
		Healthy: true, Backend: "erofs", Cache: v1alpha1.CacheStatus{CapacityBytes: 100 << 30, FreeBytes: 50 << 30},
		Bandwidth: v1alpha1.BandwidthStatus{Registry: 100e6},
	}}
}

func noJitter() float64 { return 0 }

// TestWriteSchedule says of each change how long after the last write it is written, 0 for not
// before the next one that is due anyway.
func TestWriteSchedule(t *testing.T) {
	const atOnce, settled = 10 * time.Second, 15 * time.Second
	image := v1alpha1.ImageBlocks{Key: 1, StartupMissing: 200 * mib, Cached: 500 * mib}
	with := func(edit func(*v1alpha1.ImageBlocks)) nodeblocks.Report {
		changed := image
		edit(&changed)
		return reportOf(changed)
	}
	status := func(edit func(*v1alpha1.NodeBlocksStatus)) nodeblocks.Report {
		report := reportOf(image)
		edit(&report.Status)
		return report
	}
	type b = v1alpha1.ImageBlocks
	type s = v1alpha1.NodeBlocksStatus
	for name, test := range map[string]struct {
		report nodeblocks.Report
		after  time.Duration
	}{
		"nothing":            {reportOf(image), 0},
		"missing a bit less": {with(func(i *b) { i.StartupMissing -= 19 * mib }), 0},
		"missing less":       {with(func(i *b) { i.StartupMissing -= 20 * mib }), settled},
		"missing a bit more": {with(func(i *b) { i.StartupMissing += 19 * mib }), 0},
		"missing more":       {with(func(i *b) { i.StartupMissing += 20 * mib }), atOnce},
		"nothing missing":    {with(func(i *b) { i.StartupMissing = 0 }), settled},
		"cached more":        {with(func(i *b) { i.Cached *= 3 }), 0},
		"some evicted":       {with(func(i *b) { i.Cached -= 49 * mib }), 0},
		"evicted":            {with(func(i *b) { i.Cached -= 50 * mib }), atOnce},
		"all evicted":        {with(func(i *b) { i.Cached = 0 }), atOnce},
		"guessed":            {with(func(i *b) { i.Estimated = true }), settled},
		"image gone":         {reportOf(), atOnce},
		"another image":      {reportOf(image, b{Key: 2}), settled},
		"image for image":    {reportOf(b{Key: 2}), atOnce},
		"not healthy":        {status(func(s *s) { s.Healthy = false }), atOnce},
		"message":            {status(func(s *s) { s.Message = "disk" }), atOnce},
		"peer":               {status(func(s *s) { s.Peer = &v1alpha1.PeerStatus{ID: "x"} }), atOnce},
		"backend":            {status(func(s *s) { s.Backend = "tree" }), atOnce},
		"capacity":           {status(func(s *s) { s.Cache.CapacityBytes++ }), atOnce},
		"less free":          {status(func(s *s) { s.Cache.FreeBytes -= 11 << 30 }), settled},
		"a bit less free":    {status(func(s *s) { s.Cache.FreeBytes -= 10 << 30 }), 0},
		"slower":             {status(func(s *s) { s.Bandwidth.Registry /= 2 }), settled},
		"a bit faster":       {status(func(s *s) { s.Bandwidth.Registry = 190e6 }), 0},
		"start-ups":          {status(func(s *s) { s.Starts = make([]v1alpha1.StartStatus, 1) }), 2 * time.Minute},
		"known rate":         {status(func(s *s) { s.Bandwidth.Peers = 1 }), settled},
	} {
		schedule := nodeblocks.NewWriteSchedule(nodeblocks.ScheduleConfig{}, noJitter)
		start := time.Unix(0, 0)
		if !schedule.Due(start, reportOf(image)) {
			t.Fatal("the first report is not due")
		}
		schedule.RecordWrite(start, reportOf(image))
		want := test.after
		if want == 0 {
			want = 10 * time.Minute
		}
		at := time.Second // the change
		for at <= 11*time.Minute && !schedule.Due(start.Add(at), test.report) {
			at += time.Second
		}
		if at != want {
			t.Errorf("%s: written after %s instead of %s", name, at, want)
		}
	}
}

// TestWriteScheduleLate holds that news is written at once when nothing was for long, good news
// once it has settled, and that news which is none any more is forgotten.
func TestWriteScheduleLate(t *testing.T) {
	image := v1alpha1.ImageBlocks{Key: 1, StartupMissing: 200 * mib}
	schedule := nodeblocks.NewWriteSchedule(nodeblocks.ScheduleConfig{}, noJitter)
	at := time.Unix(0, 0)
	schedule.RecordWrite(at, reportOf(image))
	at = at.Add(time.Minute)
	more := reportOf(image, v1alpha1.ImageBlocks{Key: 2})
	for name, step := range []struct {
		after  time.Duration
		report nodeblocks.Report
		want   bool
	}{
		{0, more, false},
		{4 * time.Second, more, false},
		{0, reportOf(image), false},
		{2 * time.Second, more, false},
		{4 * time.Second, more, false},
		{time.Second, more, true},
		{0, reportOf(), true},
	} {
		at = at.Add(step.after)
		if got := schedule.Due(at, step.report); got != step.want {
			t.Errorf("step %d: %v", name, got)
		}
	}
	schedule.RecordWrite(at, more)
	if schedule.Due(at, more) {
		t.Error("due after it was written")
	}
	schedule.Reset()
	if !schedule.Due(at, more) {
		t.Error("not due though it is lost")
	}
}

// TestUntold holds that each start-up is told once, and that those of a write that failed are told with
// the next one.
func TestUntold(t *testing.T) {
	schedule := nodeblocks.NewWriteSchedule(nodeblocks.ScheduleConfig{}, noJitter)
	start := time.Unix(1000, 0)
	var all []v1alpha1.StartStatus
	for i := range 6 {
		all = append(all, v1alpha1.StartStatus{FinishedAt: metav1.NewMicroTime(start.Add(time.Duration(i) * time.Microsecond))})
	}
	if diff := cmp.Diff(all[2:], schedule.Unreported(all)); diff != "" {
		t.Error(diff)
	}
	report := reportOf()
	report.Status.Starts = all[:4]
	schedule.RecordWrite(start, report)
	if diff := cmp.Diff(all[4:], schedule.Unreported(all)); diff != "" {
		t.Error(diff)
	}
	schedule.RecordWrite(start, reportOf())
	if diff := cmp.Diff(all[4:], schedule.Unreported(all)); diff != "" {
		t.Error("after a report without any:", diff)
	}
}
