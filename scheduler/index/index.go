// Package index answers, for any node and within microseconds, how long a pod would wait for its images
// there. It is the scheduler's memory of what the node agents report.
//
// An [Index] holds for every image the nodes that have some of it, not for every node its
// images, so a question about one image touches only what concerns it. [Names] says which
// keys an image has that a pod asks for by name. Both are fed by
// whoever watches the cluster; they start nothing and use no network.
//
// What cannot be understood is left out: a node with a malformed or missing report is one
// of which nothing is known, and every question has an answer.
package index

import (
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler/estimate"
)

const (
	// DefaultFreshFor is the age up to which a report is believed in full. Agents repeat
	// themselves every ten minutes when nothing changes.
	DefaultFreshFor = 11 * time.Minute
	// DefaultGoneAfter is the age from which a report is not believed at all.
	DefaultGoneAfter = 22 * time.Minute
)

// Config configures an [Index]. The zero value of a field means its default.
type Config struct {
	Model estimate.Model
	// FreshFor and GoneAfter are the ages of a report at which belief in it begins to fall,
	// and at which none is left.
	FreshFor  time.Duration
	GoneAfter time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Index holds the reports of all nodes, and the load reserved for pods that are on their way
// to a node. All methods may be called concurrently.
type Index struct {
	cfg Config

	mu           sync.RWMutex
	nodes        map[string]*nodeState
	zones        map[string]int // name to number; as many as there ever were zones
	images       map[v1alpha1.ImageKey]map[*nodeState]localBytes
	reservations map[types.UID]reservation
}

// localBytes is what a node has of an image, in bytes.
type localBytes struct {
	missing int64
	cached  int64
}

// nodeState is a node. It stays the same one while its reports change.
type nodeState struct {
	// What every question about an image reads of every node that has it.
	observed time.Time
	zone     int
	reported bool // false if there are reservations but no report
	healthy  bool

	name     string
	message  string
	cache    v1alpha1.CacheStatus
	rates    v1alpha1.BandwidthStatus
	keys     []v1alpha1.ImageKey // sorted
	pending  map[v1alpha1.ImageKey]*pendingLoad
	expected map[v1alpha1.ImageKey]expected
	finish   time.Time // of the newest start-up that was reported
}

// New returns an empty index.
func New(cfg Config) *Index {
	if cfg.FreshFor <= 0 {
		cfg.FreshFor = DefaultFreshFor
	}
	if cfg.GoneAfter <= 0 {
		cfg.GoneAfter = 2 * cfg.FreshFor
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Index{
		cfg:   cfg,
		nodes: make(map[string]*nodeState), zones: make(map[string]int),
		images:       make(map[v1alpha1.ImageKey]map[*nodeState]localBytes),
		reservations: make(map[types.UID]reservation),
	}
}

// Change is what a report of a node changed.
type Change struct {
	// Improved says that the node can do more for pods that require acceleration than before: its
	// agent became healthy, or its cache has more room.
	Improved bool
	// Starts are start-ups that the node reports for the first time.
	Starts []Start
}

// Start is a start-up on a node: the time to ready that was estimated and that it took.
type Start struct {
	Estimated, Actual time.Duration
}

// Set takes in the report of a node. After an error, which says that the list of images is malformed, nothing
// is known of the node.
func (x *Index) Set(report *v1alpha1.NodeBlocks) (Change, error) {
	images, err := v1alpha1.DecodeImages(report.Status.Images)
	if err != nil {
		return Change{Improved: x.Delete(report.Name)}, fmt.Errorf("reading images of node %s: %w", report.Name, err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.nodeStateLocked(report.Name)
	status := &report.Status
	change := Change{
		Improved: s.reported && (status.Healthy && !s.healthy || status.Cache.FreeBytes > s.cache.FreeBytes),
		Starts:   s.finished(status.Starts),
	}
	s.reported, s.zone, s.observed = true, x.zoneLocked(status.Zone), status.ObservedAt.Time
	s.healthy, s.message, s.cache, s.rates = status.Healthy, status.Message, status.Cache, status.Bandwidth
	x.setImagesLocked(s, images)
	s.lowerPending(x.images)
	return change, nil
}

// Delete forgets the report of a node, and says whether it had kept pods away.
func (x *Index) Delete(name string) (better bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	s, ok := x.nodes[name]
	if !ok {
		return false
	}
	better = s.reported && !s.healthy
	x.setImagesLocked(s, nil)
	if len(s.pending) == 0 {
		delete(x.nodes, name)
	}
	s.reported = false
	return better
}

// Names returns the nodes of which there are reports, in no order.
func (x *Index) Names() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	names := make([]string, 0, len(x.nodes))
	for name, s := range x.nodes {
		if s.reported {
			names = append(names, name)
		}
	}
	return names
}

func (x *Index) nodeStateLocked(name string) *nodeState {
	s, ok := x.nodes[name]
	if !ok {
		s = &nodeState{name: name}
		x.nodes[name] = s
	}
	return s
}

func (x *Index) zoneLocked(name string) int {
	number, ok := x.zones[name]
	if !ok {
		number = len(x.zones)
		x.zones[name] = number
	}
	return number
}

// setImagesLocked makes images, sorted by key, those of a node. Most stay what they were
// from one report to the next, so the two lists are walked side by side.
func (x *Index) setImagesLocked(s *nodeState, images []v1alpha1.ImageBlocks) {
	keys := make([]v1alpha1.ImageKey, len(images))
	old := s.keys
	for i, image := range images {
		keys[i] = image.Key
		for len(old) > 0 && old[0] < image.Key {
			x.dropLocked(s, old[0])
			old = old[1:]
		}
		if len(old) > 0 && old[0] == image.Key {
			old = old[1:]
		}
		holders := x.images[image.Key]
		if holders == nil {
			holders = make(map[*nodeState]localBytes, 1)
			x.images[image.Key] = holders
		}
		holders[s] = localBytes{missing: max(image.StartupMissing, 0), cached: max(image.Cached, 0)}
	}
	for _, key := range old {
		x.dropLocked(s, key)
	}
	s.keys = keys
}

func (x *Index) dropLocked(s *nodeState, key v1alpha1.ImageKey) {
	delete(x.images[key], s)
	if len(x.images[key]) == 0 {
		delete(x.images, key)
	}
}

// confidence is how far the report of a node is believed.
func (x *Index) confidence(s *nodeState, now time.Time) float64 {
	if s == nil || !s.reported || !s.healthy || s.observed.IsZero() {
		return 0
	}
	return estimate.Confidence(now.Sub(s.observed), x.cfg.FreshFor, x.cfg.GoneAfter)
}

// Health is what is known of the agent of a node.
type Health struct {
	// Known says that there is a report and that it is believed, at least in part.
	Known   bool
	Healthy bool
	// Message says why the agent is not healthy.
	Message string
	// FreeBytes of CapacityBytes can be cached.
	FreeBytes, CapacityBytes int64
	// Age is that of the report.
	Age time.Duration
}

// Health is the reported health of the agent of a node.
func (x *Index) Health(name string) Health {
	now := x.cfg.Now()
	x.mu.RLock()
	defer x.mu.RUnlock()
	s := x.nodes[name]
	if s == nil || !s.reported || s.observed.IsZero() {
		return Health{}
	}
	age := max(now.Sub(s.observed), 0)
	return Health{
		Known: age < x.cfg.GoneAfter, Healthy: s.healthy, Message: s.message,
		FreeBytes: s.cache.FreeBytes, CapacityBytes: s.cache.CapacityBytes, Age: age,
	}
}
