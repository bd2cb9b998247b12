package nodeblocks_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/control/nodeblocks"
)

// simulation is a cluster whose pods start, and whose caches evict what was not used for
// the longest time.
type simulation struct {
	random *rand.Rand
	nodes  []*simNode
	sizes  []int64   // of images
	demand []float64 // of images and those before them, up to 1
	// warm is the share of starts that the scheduler puts on a node that has the image.
	warm float64
	hits int
}

type simNode struct {
	schedule *nodeblocks.WriteSchedule
	images   []*simImage // the one used last at the end
	cached   int64
	joined   time.Time // when it writes for the first time
	used     time.Time // when a pod was last started
	wrote    time.Time
	starts   []v1alpha1.StartStatus // that were not written, some not over yet
}

type simImage struct {
	v1alpha1.ImageBlocks
	size, rate int64 // rate in bytes a second at which it is being loaded
}

const (
	simNodes    = 5000
	simImages   = 2000
	simStarts   = 100 // a second
	simCapacity = 20 << 30
	simStartup  = 0.064
	simRate     = 50e6
	simStart    = 30 * time.Second // until it is told how long it took
)

func newSimulation(warm float64) *simulation {
	s := &simulation{random: rand.New(rand.NewPCG(1, 2)), warm: warm}
	sum := 0.0
	for i := range simImages {
		s.sizes = append(s.sizes, int64(330e6*math.Exp(s.random.NormFloat64())))
		sum += 1 / float64(i+1) // some images are used far more than others
		s.demand = append(s.demand, sum)
	}
	for i := range simNodes { // agents are not started all at once
		s.nodes = append(s.nodes, &simNode{
			schedule: nodeblocks.NewWriteSchedule(nodeblocks.ScheduleConfig{}, s.random.Float64), joined: time.Unix(int64(i%600), 0),
		})
	}
	return s
}

// start starts a pod.
func (s *simulation) start(now time.Time) {
	at, _ := slices.BinarySearch(s.demand, s.random.Float64()*s.demand[simImages-1])
	image := min(at, simImages-1)
	node := s.nodes[s.random.IntN(simNodes)]
	for range 2000 { // the scheduler looks for a node that has it
		if s.random.Float64() >= s.warm || node.find(image) >= 0 {
			break
		}
		node = s.nodes[s.random.IntN(simNodes)]
	}
	node.used = now
	node.starts = append(node.starts, v1alpha1.StartStatus{FinishedAt: metav1.NewMicroTime(now.Add(simStart))})
	if node.use(image, s.sizes[image]) {
		s.hits++
	}
}

func (n *simNode) find(image int) int {
	return slices.IndexFunc(n.images, func(i *simImage) bool { return i.Key == v1alpha1.ImageKey(image) })
}

// use starts an image, and says whether it was there.
func (n *simNode) use(image int, size int64) bool {
	if at := n.find(image); at >= 0 {
		used := n.images[at]
		n.images = append(slices.Delete(n.images, at, at+1), used)
		return used.StartupMissing == 0
	}
	n.images = append(n.images, &simImage{size: size, rate: simRate, ImageBlocks: v1alpha1.ImageBlocks{
		Key: v1alpha1.ImageKey(image), StartupMissing: int64(simStartup * float64(size)), Estimated: true,
	}})
	return false
}

// load loads for a second: the set that the start needs, and then the rest.
func (n *simNode) load() {
	for _, image := range n.images {
		if image.rate == 0 {
			continue
		}
		got := min(image.rate, image.size-image.Cached)
		image.Cached += got
		n.cached += got
		image.StartupMissing = max(0, image.StartupMissing-got)
		if image.Cached == image.size {
			image.rate = 0
		}
	}
	for n.cached > simCapacity {
		n.cached -= n.images[0].Cached
		n.images = slices.Delete(n.images, 0, 1)
	}
}

func (n *simNode) report(at time.Time) nodeblocks.Report {
	over := 0
	for over < len(n.starts) && !n.starts[over].FinishedAt.After(at) {
		over++
	}
	report := nodeblocks.Report{Status: v1alpha1.NodeBlocksStatus{
		Healthy: true, Cache: v1alpha1.CacheStatus{CapacityBytes: simCapacity, FreeBytes: simCapacity - n.cached},
		Starts: n.schedule.Unreported(n.starts[:over]),
	}}
	for _, image := range n.images {
		report.Images = append(report.Images, image.ImageBlocks)
	}
	return report
}

// due says whether a node writes, and takes it that it does. Of a node where nothing
// happens that is not asked every second, so that the test ends.
func (n *simNode) due(at time.Time, number int) bool {
	const quiet = 25 * time.Second
	if at.Before(n.joined) || at.Sub(n.used) > quiet && (at.Unix()+int64(number))%20 != 0 {
		return false
	}
	n.load()
	report := n.report(at)
	if !n.schedule.Due(at, report) {
		return false
	}
	n.schedule.RecordWrite(at, report)
	n.starts = n.starts[len(report.Status.Starts):]
	return true
}

// TestWriteRate holds how often 5,000 agents write while 100 pods start a second, with
// caches that are full.
func TestWriteRate(t *testing.T) {
	for _, test := range []struct {
		name string
		warm float64
		most float64
	}{
		{"placed by a scheduler that knows", 0.9, 100},
		{"placed at random", 0, 100},
	} {
		s := newSimulation(test.warm)
		s.fill()
		const joining, settling, measured = 540, 60, 90 // seconds
		writes, early := 0, 0
		for second := range joining + settling + measured {
			at := time.Unix(int64(second), 0)
			for range simStarts {
				if second >= joining {
					s.start(at)
				}
			}
			if second == joining+settling {
				writes, s.hits = 0, 0
			}
			for i, node := range s.nodes {
				if !node.due(at, i) {
					continue
				}
				if at.Sub(node.wrote) < 10*time.Second {
					early++
				}
				node.wrote = at
				writes++
			}
		}
		rate := float64(writes) / measured
		t.Logf("%s: %.0f %% of %d starts a second are warm, %.1f writes a second",
			test.name, 100*float64(s.hits)/(simStarts*measured), simStarts, rate)
		if rate > test.most {
			t.Errorf("%s: %.1f writes a second are more than %.0f", test.name, rate, test.most)
		}
		if early > 0 {
			t.Errorf("%s: a node wrote %d times within 10 s", test.name, early)
		}
	}
}

// fill fills the caches as long use would.
func (s *simulation) fill() {
	for _, node := range s.nodes {
		for node.cached < simCapacity*95/100 {
			at, _ := slices.BinarySearch(s.demand, s.random.Float64()*s.demand[simImages-1])
			image := min(at, simImages-1)
			if node.find(image) < 0 {
				node.images = append(node.images, &simImage{size: s.sizes[image], ImageBlocks: v1alpha1.ImageBlocks{
					Key: v1alpha1.ImageKey(image), Cached: s.sizes[image], Estimated: true,
				}})
				node.cached += s.sizes[image]
			}
		}
	}
}
