package index

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler/estimate"
)

const (
	// A promise is held for twice the time that it was expected to take: the report of the
	// agent, which replaces it, may be late by its own interval.
	leastPromise = 15 * time.Second
	mostPromise  = 10 * time.Minute
	// expectedFor is how long it is remembered what was estimated, and perSlot for how many
	// images of a node: nodes report start-ups when they write for another reason.
	expectedFor = 20 * time.Minute
	perSlot     = 32
)

// promise is what was promised for one pod.
type promise struct {
	node *slot
	keys []v1alpha1.ImageKey
}

// owed is what a node was promised to load of one image. Pods that wait for the same image on
// one node wait for the same bytes, which count once.
type owed struct {
	bytes   estimate.Bytes
	made    time.Time
	expires time.Time
	pods    int
}

// expected is what was estimated for the first pod of an image on a node.
type expected struct {
	made time.Time
	took time.Duration
}

// Reserve records that a pod goes to a node, which now has to load what the answer says is
// missing there. Doing it again for the same pod replaces what was there.
func (x *Index) Reserve(pod types.UID, answer Answer) {
	now := x.cfg.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.releaseLocked(pod)
	s := x.slotLocked(answer.Node)
	expires := now.Add(min(max(2*answer.Split.Total(), leastPromise), mostPromise))
	p := promise{node: s}
	for _, image := range answer.Images {
		needed := image.Missing.Add(image.Queued)
		if len(image.keys) == 0 {
			continue
		}
		if o := s.promised[image.keys[0]]; o == nil || !o.expires.After(now) {
			s.expect(image.keys, expected{made: now, took: answer.Split.Total()})
		}
		if needed.Total() == 0 {
			continue
		}
		if s.promised == nil {
			s.promised = make(map[v1alpha1.ImageKey]*owed)
		}
		key := image.keys[0]
		o := s.promised[key]
		if o == nil || !o.expires.After(now) {
			o = &owed{made: now}
			s.promised[key] = o
		}
		if needed.Total() > o.bytes.Total() {
			o.bytes = needed
		}
		o.expires = later(o.expires, expires)
		o.pods++
		p.keys = append(p.keys, key)
	}
	if len(p.keys) == 0 {
		x.tidyLocked(s)
		return
	}
	x.promises[pod] = p
	if len(x.promises) > 2*len(x.nodes)+1024 {
		x.expireLocked(now)
	}
}

// Unreserve takes back what was promised for a pod, if anything was.
func (x *Index) Unreserve(pod types.UID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.releaseLocked(pod)
}

// Promised returns the bytes that each node was promised to load and has not reported or had
// the time to load. Nodes without any are left out.
func (x *Index) Promised() map[string]int64 {
	now := x.cfg.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.expireLocked(now)
	sums := make(map[string]int64)
	for name, s := range x.nodes {
		if total := s.queued(now).Total(); total > 0 {
			sums[name] = total
		}
	}
	return sums
}

func (x *Index) releaseLocked(pod types.UID) {
	p, ok := x.promises[pod]
	if !ok {
		return
	}
	delete(x.promises, pod)
	for _, key := range p.keys {
		if o := p.node.promised[key]; o != nil {
			if o.pods--; o.pods <= 0 {
				delete(p.node.promised, key)
			}
		}
	}
	x.tidyLocked(p.node)
}

// expireLocked forgets promises that are over, so that their number stays bounded by the
// pods that were scheduled within [mostPromise].
func (x *Index) expireLocked(now time.Time) {
	for _, s := range x.nodes {
		for key, o := range s.promised {
			if !o.expires.After(now) {
				delete(s.promised, key)
			}
		}
	}
	for pod, p := range x.promises {
		alive := false
		for _, key := range p.keys {
			alive = alive || p.node.promised[key] != nil
		}
		if !alive {
			delete(x.promises, pod)
			x.tidyLocked(p.node)
		}
	}
}

// tidyLocked forgets a node of which nothing is left.
func (x *Index) tidyLocked(s *slot) {
	if !s.reported && len(s.promised) == 0 && x.nodes[s.name] == s {
		delete(x.nodes, s.name)
	}
}

// finished returns the start-ups in a report that are new and were promised.
func (s *slot) finished(starts []v1alpha1.StartStatus) (found []Start) {
	newest := s.finish
	for _, start := range starts {
		at := start.FinishedAt.Time
		if !at.After(s.finish) {
			continue
		}
		newest = later(newest, at)
		key, err := v1alpha1.KeyOf(start.Image)
		if err != nil || start.Milliseconds < 0 || start.Milliseconds > estimate.MaxTime.Milliseconds() {
			continue
		}
		if e, ok := s.expected[key]; ok && at.After(e.made) {
			found = append(found, Start{Estimated: e.took, Actual: time.Duration(start.Milliseconds) * time.Millisecond})
			delete(s.expected, key)
		}
	}
	s.finish = newest
	return found
}

// expect remembers what was estimated for an image.
func (s *slot) expect(keys []v1alpha1.ImageKey, e expected) {
	for key, other := range s.expected {
		if e.made.Sub(other.made) > expectedFor {
			delete(s.expected, key)
		}
	}
	if s.expected == nil {
		s.expected = make(map[v1alpha1.ImageKey]expected)
	}
	for _, key := range keys {
		if _, there := s.expected[key]; there || len(s.expected) < perSlot {
			s.expected[key] = e
		}
	}
}

// settle lowers what is promised to what the newest report says is still missing.
func (s *slot) settle(images map[v1alpha1.ImageKey]map[*slot]held) {
	for key, o := range s.promised {
		h, ok := images[key][s]
		if !ok || !s.observed.After(o.made) {
			continue
		}
		o.bytes.Registry = min(o.bytes.Registry, h.missing)
		o.bytes.Peers = min(o.bytes.Peers, h.missing-o.bytes.Registry)
	}
}

// queued is what the node was promised to load.
func (s *slot) queued(now time.Time) (sum estimate.Bytes) {
	for _, o := range s.promised {
		if o.expires.After(now) {
			sum = sum.Add(o.bytes)
		}
	}
	return sum
}

// owes is what the node was promised to load of one image.
func (s *slot) owes(key v1alpha1.ImageKey, now time.Time) estimate.Bytes {
	if o := s.promised[key]; o != nil && o.expires.After(now) {
		return o.bytes
	}
	return estimate.Bytes{}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
