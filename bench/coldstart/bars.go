package coldstart

import "time"

// Bar is the goal of a cell. A zero field is no goal.
type Bar struct {
	MaxLimitRatio     float64       // of the time to the limit
	MaxTime           time.Duration // enough if the ratio to the limit is missed
	MaxErofsRatio     float64       // of the time to that of containerd's EROFS
	MaxOverlayfsRatio float64       // of the time to that of overlayfs
}

// bars returns the bars of the arms with a trace from the registry, and of the arms without
// a trace.
func bars(workload, link string) (traced, unknown Bar) {
	switch workload + "/" + link {
	case NodeRED + "/gigabit":
		return Bar{MaxLimitRatio: 1.4, MaxErofsRatio: 0.20}, Bar{MaxErofsRatio: 0.33}
	case NodeRED + "/100mbit":
		return Bar{MaxLimitRatio: 1.15}, Bar{MaxLimitRatio: 1.8, MaxTime: 7500 * time.Millisecond}
	case NodeRED + "/25mbit":
		return Bar{MaxLimitRatio: 1.15}, Bar{MaxOverlayfsRatio: 0.2}
	case Redis + "/gigabit", Redis + "/lan":
		return Bar{MaxErofsRatio: 0.30}, Bar{MaxErofsRatio: 0.40}
	case PyTorch + "/gigabit":
		return Bar{MaxLimitRatio: 1.5}, Bar{MaxErofsRatio: 0.35}
	default:
		return Bar{}, Bar{}
	}
}

// BarOf returns the bar of a cell.
func BarOf(key Key) Bar {
	traced, unknown := bars(key.Workload, key.Link)
	switch key.Arm {
	case Trace, Bundle:
		return traced
	case Auto, Predicted:
		return unknown
	default:
		return Bar{}
	}
}

// bar returns whether a cell reaches its bar: met, missed, or - if it has no bar or the run did
// not measure the other side of the ratio.
func (r *Results) bar(key Key, total time.Duration) string {
	bar, verdict := BarOf(key), "-"
	judge := func(ok bool) {
		if !ok {
			verdict = "missed"
		} else if verdict == "-" {
			verdict = "met"
		}
	}
	if limit := r.Limit(key); bar.MaxLimitRatio > 0 && limit > 0 {
		judge(total.Seconds() <= bar.MaxLimitRatio*limit.Seconds() || total <= bar.MaxTime)
	}
	for rival, share := range map[Arm]float64{EROFS: bar.MaxErofsRatio, Overlayfs: bar.MaxOverlayfsRatio} {
		if other, ok := r.Total(Key{key.Workload, key.Link, rival}); ok && share > 0 {
			judge(total.Seconds() <= share*other.Seconds())
		}
	}
	return verdict
}
