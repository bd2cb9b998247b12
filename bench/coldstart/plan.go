package coldstart

import "time"

// Arm is a way to start a container from a registry.
type Arm string

// The arms. All that are Brisk's own run with its default mode, but for [Lazy].
const (
	Overlayfs  Arm = "overlayfs"        // containerd unpacks the image
	EROFS      Arm = "erofs"            // containerd makes EROFS images of the layers
	Auto       Arm = "brisk-auto"       // the image has an index; nothing is known of its start
	Lazy       Arm = "brisk-lazy"       // the same, and only what is read is loaded
	Predicted  Arm = "brisk-predicted"  // the image has an index, with what its content says of its start
	LocalTrace Arm = "brisk-learnt"     // the node has started the image before, and has nothing of it left but the trace
	Trace      Arm = "brisk-trace"      // the registry has a trace
	Bundle     Arm = "brisk-bundle"     // the registry has a bundle
	FullMode   Arm = "brisk-full"       // the image is in full mode; nothing is known of its start
	FullTrace  Arm = "brisk-full-trace" // the image is in full mode, and the registry has a trace
)

// Arms returns all arms, in the order in which they run in a round.
func Arms() []Arm {
	return []Arm{Overlayfs, EROFS, Auto, Lazy, Predicted, LocalTrace, Trace, Bundle, FullMode, FullTrace}
}

// The images.
const (
	NodeRED = "nodered"
	Redis   = "redis"
	PyTorch = "pytorch"
)

// Link is the link between a node and the registry.
type Link struct {
	Name           string
	BytesPerSecond float64
	RoundTrip      time.Duration
}

// Links returns the links, the fastest first.
func Links() []Link {
	const megabit = 1e6 / 8
	return []Link{
		{"lan", 1000 * megabit, time.Millisecond},
		{"gigabit", 1000 * megabit, 10 * time.Millisecond},
		{"100mbit", 100 * megabit, 10 * time.Millisecond},
		{"25mbit", 25 * megabit, 40 * time.Millisecond},
	}
}

// Plan says how often each arm runs for an image on a link: [Plan] of image and link.
type Plan map[string]map[string]map[Arm]int

// Rounds returns how often an arm runs.
func (p Plan) Rounds(workload, link string, arm Arm) int { return p[workload][link][arm] }

// rounds gives the arms of containerd's own one number of rounds, and those of Brisk another.
func rounds(overlayfs, erofs, brisk int) map[Arm]int {
	r := map[Arm]int{Overlayfs: overlayfs, EROFS: erofs}
	for _, arm := range []Arm{Auto, Lazy, Predicted, LocalTrace, Trace, Bundle} {
		r[arm] = brisk
	}
	return r
}

// FullPlan is the plan of the whole table, which takes less than 25 minutes on a machine of
// two cores. Rivals that take minutes on a slow link run once there.
func FullPlan() Plan {
	return Plan{
		NodeRED: {"gigabit": rounds(1, 3, 5), "100mbit": rounds(0, 1, 3), "25mbit": rounds(1, 0, 3)},
		Redis:   {"lan": rounds(1, 3, 3), "gigabit": rounds(1, 5, 5), "100mbit": rounds(0, 3, 3), "25mbit": rounds(0, 1, 3)},
		PyTorch: {"gigabit": rounds(0, 2, 3), "100mbit": rounds(0, 0, 1)},
	}
}

// ShortPlan is the plan of a table that takes less than 8 minutes: fewer links and rounds.
func ShortPlan() Plan {
	return Plan{
		NodeRED: {"gigabit": rounds(0, 1, 3), "100mbit": rounds(0, 0, 2)},
		Redis:   {"gigabit": rounds(0, 3, 3)},
		PyTorch: {"gigabit": rounds(0, 1, 1)},
	}
}

// UniformPlan is a plan in which every arm runs for every image on every link. It takes hours
// with more than one round: it is for choosing single cells of.
func UniformPlan(n int) Plan {
	plan := make(Plan)
	for _, workload := range []string{NodeRED, Redis, PyTorch} {
		plan[workload] = make(map[string]map[Arm]int)
		for _, link := range Links() {
			plan[workload][link.Name] = rounds(n, n, n)
			plan[workload][link.Name][FullMode], plan[workload][link.Name][FullTrace] = n, n
		}
	}
	return plan
}
