package index

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler/estimate"
)

const (
	// A reservation lasts twice the time that it was expected to take: the report of the
	// agent, which replaces it, may be late by its own interval.
	minReservation = 15 * time.Second
	maxReservation = 10 * time.Minute
	// expectedFor is how long it is remembered what was estimated, and maxExpected for how many
	// images of a node: nodes report start-ups when they write for another reason.
	expectedFor = 20 * time.Minute
	maxExpected = 32
)

// reservation is the load that is reserved for one pod.
type reservation struct {
	node *nodeState
	keys []v1alpha1.ImageKey
}

// pendingLoad is the data of one image that is reserved on a node. Pods that wait for the same image on
// one node wait for the same bytes, which count once.
type pendingLoad struct {
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
func (x *Index) Reserve(pod types.UID, answer Estimate) {
	now := x.cfg.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.releaseLocked(pod)
	s := x.nodeStateLocked(answer.Node)
	expires := now.Add(min(max(2*answer.ReadyTime.Total(), minReservation), maxReservation))
	p := reservation{node: s}
	for _, image := range answer.Images {
		needed := image.Missing.Add(image.Queued)
		if len(image.keys) == 0 {
			continue
		}
		if o := s.pending[image.keys[0]]; o == nil || !o.expires.After(now) {
			s.expect(image.keys, expected{made: now, took: answer.ReadyTime.Total()})
		}
		if needed.Total() == 0 {
			continue
		}
		if s.pending == nil {
			s.pending = make(map[v1alpha1.ImageKey]*pendingLoad)
		}
		key := image.keys[0]
		o := s.pending[key]
		if o == nil || !o.expires.After(now) {
			o = &pendingLoad{made: now}
			s.pending[key] = o
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
	x.reservations[pod] = p
	if len(x.reservations) > 2*len(x.nodes)+1024 {
		x.expireLocked(now)
	}
}

// Unreserve drops the reservation of a pod, if there is one.
func (x *Index) Unreserve(pod types.UID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.releaseLocked(pod)
}

// Reserved returns the bytes that are reserved on each node and that it has not reported or had
// the time to load. Nodes without any are left out.
func (x *Index) Reserved() map[string]int64 {
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
	p, ok := x.reservations[pod]
	if !ok {
		return
	}
	delete(x.reservations, pod)
	for _, key := range p.keys {
		if o := p.node.pending[key]; o != nil {
			if o.pods--; o.pods <= 0 {
				delete(p.node.pending, key)
			}
		}
	}
	x.tidyLocked(p.node)
}

// expireLocked forgets reservations that are over, so that their number stays bounded by the
// pods that were scheduled within [maxReservation].
func (x *Index) expireLocked(now time.Time) {
	for _, s := range x.nodes {
		for key, o := range s.pending {
			if !o.expires.After(now) {
				delete(s.pending, key)
			}
		}
	}
	for pod, p := range x.reservations {
		alive := false
		for _, key := range p.keys {
			alive = alive || p.node.pending[key] != nil
		}
		if !alive {
			delete(x.reservations, pod)
			x.tidyLocked(p.node)
		}
	}
}

// tidyLocked forgets a node of which nothing is left.
func (x *Index) tidyLocked(s *nodeState) {
	if !s.reported && len(s.pending) == 0 && x.nodes[s.name] == s {
		delete(x.nodes, s.name)
	}
}

// finished returns the start-ups in a report that are new and had a reservation.
func (s *nodeState) finished(starts []v1alpha1.StartStatus) (found []Start) {
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
func (s *nodeState) expect(keys []v1alpha1.ImageKey, e expected) {
	for key, other := range s.expected {
		if e.made.Sub(other.made) > expectedFor {
			delete(s.expected, key)
		}
	}
	if s.expected == nil {
		s.expected = make(map[v1alpha1.ImageKey]expected)
	}
	for _, key := range keys {
		if _, there := s.expected[key]; there || len(s.expected) < maxExpected {
			s.expected[key] = e
		}
	}
}

// lowerPending lowers the pending load to what the newest report says is still missing.
func (s *nodeState) lowerPending(images map[v1alpha1.ImageKey]map[*nodeState]localBytes) {
	for key, o := range s.pending {
		h, ok := images[key][s]
		if !ok || !s.observed.After(o.made) {
			continue
		}
		o.bytes.Registry = min(o.bytes.Registry, h.missing)
		o.bytes.Peers = min(o.bytes.Peers, h.missing-o.bytes.Registry)
	}
}

// queued returns the pending load of all images.
func (s *nodeState) queued(now time.Time) (sum estimate.Bytes) {
	for _, o := range s.pending {
		if o.expires.After(now) {
			sum = sum.Add(o.bytes)
		}
	}
	return sum
}

// pendingOf returns the pending load of one image.
func (s *nodeState) pendingOf(key v1alpha1.ImageKey, now time.Time) estimate.Bytes {
	if o := s.pending[key]; o != nil && o.expires.After(now) {
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
