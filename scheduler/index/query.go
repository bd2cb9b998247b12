package index

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler/estimate"
)

// Image is an image that a pod needs, by all the keys it may be reported under: several if
// its name was seen with several digests, or if it has an accelerated form.
type Image struct {
	Name string
	Keys []v1alpha1.ImageKey
}

// Query is a question about the images of one pod. It is good for one scheduling cycle: it
// remembers which zones have what, but asks for the nodes again. It may be used concurrently.
type Query struct {
	index  *Index
	now    time.Time
	images []imageQuery
	cold   estimate.Bytes // what a node has to load of which nothing is known
}

type imageQuery struct {
	Image
	size    int64   // bytes that a start reads, as far as anyone knows
	zones   []zoned // by number of the zone
	holders []map[*nodeState]localBytes
}

// zoned is the least that a node of a zone misses of an image, and the least that any other does.
type zoned struct {
	first  *nodeState
	least  int64
	second int64
}

// Estimate is the time to ready on one node, and what it is made of.
type Estimate struct {
	Node      string             `json:"node"`
	ReadyTime estimate.ReadyTime `json:"split"`
	// Confidence is how far the report of the node is believed, from 0 to 1.
	Confidence float64 `json:"confidence"`
	// Age is that of the report; 0 if there is none.
	Age    time.Duration   `json:"age"`
	Images []ImageEstimate `json:"images"`
}

// ImageEstimate is what a node has to load of one image.
type ImageEstimate struct {
	Name string `json:"name"`
	// Known says that the node reported the image.
	Known bool `json:"known"`
	// Missing is what nobody has asked the node to load, Queued what it loads already.
	Missing estimate.Bytes `json:"missing"`
	Queued  estimate.Bytes `json:"queued"`
	// Cached is how much of the image is on the node.
	Cached int64 `json:"cached"`

	keys []v1alpha1.ImageKey
}

// Query prepares a question about images. It is nil if no node knows any of them: then there
// is nothing to tell nodes apart.
func (x *Index) Query(images []Image) *Query {
	q := &Query{index: x, now: x.cfg.Now()}
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, image := range images {
		known := x.lookLocked(image, q.now)
		if known.size > 0 {
			q.images = append(q.images, known)
			q.cold.Registry += known.size
		}
	}
	if len(q.images) == 0 {
		return nil
	}
	return q
}

// lookLocked finds out how large the start-up set of an image is and which zones have it. No node
// misses more than the start-up set, and none has less than it of what it misses and has together.
func (x *Index) lookLocked(image Image, now time.Time) imageQuery {
	q := imageQuery{Image: image}
	least, most := int64(0), int64(math.MaxInt64)
	for _, key := range image.Keys {
		holders := x.images[key]
		if len(holders) == 0 {
			continue
		}
		if q.zones == nil {
			q.zones = make([]zoned, len(x.zones))
		}
		q.holders = append(q.holders, holders)
		for s, h := range holders {
			if x.confidence(s, now) == 0 {
				continue
			}
			least, most = max(least, h.missing), min(most, estimate.Bytes{Peers: h.missing, Registry: h.cached}.Total())
			q.zones[s.zone].add(s, h.missing)
		}
	}
	if most < math.MaxInt64 {
		q.size = max(least, most)
	}
	return q
}

func (z *zoned) add(s *nodeState, missing int64) {
	switch {
	case z.first == nil:
		z.first, z.least, z.second = s, missing, math.MaxInt64
	case z.first == s:
		z.least = min(z.least, missing)
	case missing < z.least:
		z.first, z.second, z.least = s, z.least, missing
	default:
		z.second = min(z.second, missing)
	}
}

// has returns the most that a node of the zone of s, other than itself, has of the image.
func (q *imageQuery) has(s *nodeState) int64 {
	if s.zone >= len(q.zones) {
		return 0 // it came after the question
	}
	z := q.zones[s.zone]
	missing := z.least
	switch z.first {
	case nil:
		return 0
	case s:
		missing = z.second
	}
	return max(q.size-missing, 0)
}

// Estimate returns the estimates of nodes, in their order.
func (q *Query) Estimate(nodes []string) []Estimate {
	answers := make([]Estimate, len(nodes))
	q.index.mu.RLock()
	defer q.index.mu.RUnlock()
	for i, name := range nodes {
		s := q.index.nodes[name]
		answers[i] = Estimate{Node: name, Images: make([]ImageEstimate, len(q.images))}
		answers[i].ReadyTime = q.readyTime(s, answers[i].Images)
		answers[i].Confidence = q.index.confidence(s, q.now)
		if s != nil && s.reported {
			answers[i].Age = max(q.now.Sub(s.observed), 0)
		}
	}
	return answers
}

// Time estimates one node, and leaves out what the time is made of.
func (q *Query) Time(node string) time.Duration {
	q.index.mu.RLock()
	defer q.index.mu.RUnlock()
	return q.readyTime(q.index.nodes[node], nil).Total()
}

// Missing is how many bytes a node still has to load, those that it loads already included.
func (q *Query) Missing(node string) int64 {
	q.index.mu.RLock()
	defer q.index.mu.RUnlock()
	s := q.index.nodes[node]
	var sum estimate.Bytes
	for i := range q.images {
		answer := q.image(&q.images[i], s)
		sum = sum.Add(answer.Missing).Add(answer.Queued)
	}
	return sum.Total()
}

// readyTime estimates one node; s is nil if nothing is known of it. Unless it is nil, details is filled
// in, one for each image.
func (q *Query) readyTime(s *nodeState, details []ImageEstimate) estimate.ReadyTime {
	load := estimate.Load{}
	unknown := estimate.Load{Missing: q.cold}
	if s != nil {
		load.Queued = s.queued(q.now)
		load.PeerBandwidth, load.RegistryBandwidth = s.rates.Peers, s.rates.Registry
		unknown.Queued = load.Queued
	}
	confidence := q.index.confidence(s, q.now)
	for i := range q.images {
		image := &q.images[i]
		answer := q.image(image, s)
		load.Missing = load.Missing.Add(answer.Missing)
		if owed := answer.Queued.Total(); owed > 0 {
			unknown.Missing.Registry -= min(owed, image.size) // it is in the queue
		}
		if details != nil {
			details[i] = answer
		}
	}
	model := q.index.cfg.Model
	return estimate.Blend(model.Time(load), model.Time(unknown), confidence)
}

// image says what a node has to load of an image.
func (q *Query) image(image *imageQuery, s *nodeState) ImageEstimate {
	answer := ImageEstimate{Name: image.Name, keys: image.Keys}
	missing := image.size
	if s == nil {
		answer.Missing.Registry = missing
		return answer
	}
	for _, holders := range image.holders {
		if h, ok := holders[s]; ok && (!answer.Known || h.missing < missing) {
			answer.Known, missing, answer.Cached = true, h.missing, h.cached
		}
	}
	if len(s.pending) > 0 {
		answer.Queued = s.pendingOf(image.Keys[0], q.now)
		missing -= min(missing, answer.Queued.Total())
	}
	answer.Missing.Peers = min(missing, image.has(s))
	answer.Missing.Registry = missing - answer.Missing.Peers
	return answer
}

// Score maps a time to ready onto 0 to [estimate.MaxScore].
func (q *Query) Score(total time.Duration) int64 { return q.index.cfg.Model.Score(total) }

// ColdTime returns the time to ready on a node without a report.
func (q *Query) ColdTime() time.Duration {
	return q.index.cfg.Model.Time(estimate.Load{Missing: q.cold}).Total()
}

// considered bounds the nodes that [Query.WarmestNodes] estimates.
const considered = 200

// WarmestNodes returns the nodes on which a pod is ready soonest, the best first. Candidates are the nodes that
// have nearly the most of one of the images. If there are many, it considers a random part of them.
func (q *Query) WarmestNodes() []string {
	q.index.mu.RLock()
	defer q.index.mu.RUnlock()
	candidates := make(map[*nodeState]struct{})
	for i := range q.images {
		q.warmLocked(&q.images[i], candidates, considered*(i+1)/len(q.images))
	}
	type timed struct {
		name  string
		total time.Duration
	}
	best := make([]timed, 0, len(candidates))
	cold := q.ColdTime()
	for s := range candidates {
		if total := q.readyTime(s, nil).Total(); total+estimate.Resolution <= cold {
			best = append(best, timed{s.name, total})
		}
	}
	slices.SortFunc(best, func(a, b timed) int { return cmp.Compare(a.total, b.total) })
	names := make([]string, len(best))
	for i, b := range best {
		names[i] = b.name
	}
	return names
}

// warmLocked adds nodes that miss little more of an image than the one that misses least, until there are
// limit. The order of a map is a random one.
func (q *Query) warmLocked(image *imageQuery, into map[*nodeState]struct{}, limit int) {
	least := image.size
	for _, zone := range image.zones {
		if zone.first != nil {
			least = min(least, zone.least)
		}
	}
	enough := least + (image.size-least)/8
	if enough >= image.size {
		return
	}
	for _, holders := range image.holders {
		for s, h := range holders {
			if len(into) >= limit {
				return
			}
			if h.missing <= enough && q.index.confidence(s, q.now) > 0 {
				into[s] = struct{}{}
			}
		}
	}
}
