package policy

import (
	"math/bits"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// PeerID names a peer. The scoreboard gives it no meaning.
type PeerID string

const (
	// missTTL is how long a block that a peer did not hold is not asked of it
	// again. The peer may be fetching it this moment, so it is short; it only has
	// to keep a burst of reads from asking the same question over and over.
	missTTL = time.Second
	// hitTTL is how long a peer that delivered a block of a layer is asked before
	// peers of which nothing is known.
	hitTTL = time.Minute
	// failuresToBench is how many failures in a row bench a peer. One alone may
	// be a reply that came a moment too late.
	failuresToBench = 2
	// banTime is how long a peer that sent wrong bytes is shut out. Its disk or
	// memory is broken or it is hostile; neither mends in seconds.
	banTime = 10 * time.Minute
	// latencyUnknown is assumed of a peer that has not answered yet: a typical
	// answer of a busy node, so that a new peer is neither flooded nor avoided.
	latencyUnknown = 2 * time.Millisecond
	// loadBlocks is the difference in blocks under way that matters: 1 MiB takes
	// about as long as the round trip that asking the wrong peer costs.
	loadBlocks = 4
	// maxLayers and maxExtents bound what is remembered of one peer. Past them the
	// memory is dropped as a whole: it is worth one question per block.
	maxLayers  = 256
	maxExtents = 1024
)

// Scoreboard is what a node knows about its peers. It is safe for concurrent use. No
// method blocks or does I/O.
type Scoreboard struct {
	now func() time.Time

	mu    sync.Mutex // guards everything below
	peers map[PeerID]*peerState
}

type peerState struct {
	inflight int           // blocks asked for and not yet answered
	latency  time.Duration // moving average of the time to the first frame, 0: none yet
	failures int           // in a row
	bench    backoff
	dial     backoff
	busy     time.Time // it asked to be left alone until then
	banned   time.Time // it is shut out until then
	layers   map[block.Digest]*layerState
}

type layerState struct {
	hit     time.Time          // when it last delivered a block of the layer
	missing map[uint32]missing // by extent
}

type missing struct {
	blocks uint16 // bit i: block i of the extent was not held
	until  time.Time
}

// NewScoreboard returns an empty scoreboard. A nil now is [time.Now].
func NewScoreboard(now func() time.Time) *Scoreboard {
	if now == nil {
		now = time.Now
	}
	return &Scoreboard{now: now, peers: make(map[PeerID]*peerState)}
}

func (b *Scoreboard) peerLocked(id PeerID) *peerState {
	p, ok := b.peers[id]
	if !ok {
		p = &peerState{layers: make(map[block.Digest]*layerState)}
		b.peers[id] = p
	}
	return p
}

// Forget drops what is known about a peer that is no member any more, except
// that it is banned: leaving and coming back does not lift a ban.
func (b *Scoreboard) Forget(id PeerID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p, ok := b.peers[id]; ok && !b.now().Before(p.banned) {
		delete(b.peers, id)
	}
}

// Pick chooses the peer to ask for blocks of one extent and which of them to ask
// it for: those of mask that it is not known to lack. Bit i of mask is block i of
// the extent. Peers in skip, benched, busy and banned ones are passed over. It
// reports false when nobody is left.
//
// First come the peers with the least asked of them, where one that has not lately
// delivered blocks of the layer counts as if it had a little to do, and more with
// every peer tried already: a guess is worth making when those who surely hold the layer
// are busy, but not again and again. Then come the fastest; among equals the order
// is that of a hash of peer and extent, so that different extents go to different
// peers.
func (b *Scoreboard) Pick(layer block.Digest, extent uint32, mask uint16, connected []PeerID, skip map[PeerID]bool) (PeerID, uint16, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	var best rank
	for _, id := range connected {
		if skip[id] {
			continue
		}
		p := b.peerLocked(id)
		if !p.available(now) {
			continue
		}
		ask := mask &^ p.lacks(layer, extent, now)
		if ask == 0 {
			continue
		}
		r := p.rank(id, layer, extent, now)
		if !r.known {
			r.load += 1 + len(skip)
		}
		if best.id == "" || r.before(best) {
			r.ask = ask
			best = r
		}
	}
	return best.id, best.ask, best.id != ""
}

// Order returns the peers of connected that may be asked for an object, the one
// to ask first in front.
func (b *Scoreboard) Order(object block.Digest, connected []PeerID) []PeerID {
	skip := make(map[PeerID]bool)
	var order []PeerID
	for {
		id, _, ok := b.Pick(object, 0, 1, connected, skip)
		if !ok {
			return order
		}
		skip[id] = true
		order = append(order, id)
	}
}

func (p *peerState) available(now time.Time) bool {
	return !now.Before(p.banned) && !now.Before(p.bench.until) && !now.Before(p.busy)
}

func (p *peerState) lacks(layer block.Digest, extent uint32, now time.Time) uint16 {
	l, ok := p.layers[layer]
	if !ok {
		return 0
	}
	if m := l.missing[extent]; now.Before(m.until) {
		return m.blocks
	}
	return 0
}

// rank is the place of a peer among the candidates for one extent.
type rank struct {
	id    PeerID
	ask   uint16
	load  int    // asked of it and not answered, in loadBlocks
	known bool   // lately delivered blocks of the layer
	speed int    // binary magnitude of its latency
	hash  uint64 // spreads extents over equals
}

func (p *peerState) rank(id PeerID, layer block.Digest, extent uint32, now time.Time) rank {
	latency := p.latency
	if latency == 0 {
		latency = latencyUnknown
	}
	l, ok := p.layers[layer]
	return rank{
		id:    id,
		load:  p.inflight / loadBlocks,
		known: ok && now.Sub(l.hit) < hitTTL,
		// In powers of four: closer than that, two latencies are the same peer on
		// a good and on a bad moment.
		speed: bits.Len64(uint64(latency/time.Microsecond)) / 2,
		hash:  spread(id, layer, extent),
	}
}

func (r rank) before(o rank) bool {
	switch {
	case r.load != o.load:
		return r.load < o.load
	case r.known != o.known:
		return r.known
	case r.speed != o.speed:
		return r.speed < o.speed
	default:
		return r.hash > o.hash
	}
}

// spread hashes (FNV-1a, then a finishing mix): the same on every node, different
// for every extent.
func spread(id PeerID, layer block.Digest, extent uint32) uint64 {
	h := uint64(14695981039346656037)
	add := func(c byte) { h = (h ^ uint64(c)) * 1099511628211 }
	for _, c := range layer[:8] {
		add(c)
	}
	for shift := 0; shift < 32; shift += 8 {
		add(byte(extent >> shift))
	}
	for i := range len(id) {
		add(id[i])
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	return h ^ h>>33
}

// RequestSent notes that n blocks are being asked of a peer; a negative n that they no
// longer are.
func (b *Scoreboard) RequestSent(id PeerID, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peerLocked(id)
	p.inflight = max(p.inflight+n, 0)
}

// RequestAnswered notes the time from a question to the first frame of its answer.
func (b *Scoreboard) RequestAnswered(id PeerID, latency time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peerLocked(id)
	p.failures = 0
	p.bench.reset()
	if p.latency == 0 {
		p.latency = latency
		return
	}
	p.latency += (latency - p.latency) / 4
}

// BlockReceived notes that a peer delivered verified blocks of a layer.
func (b *Scoreboard) BlockReceived(id PeerID, layer block.Digest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peerLocked(id).layer(layer).hit = b.now()
}

// BlocksMissing notes that a peer does not hold the blocks mask of an extent.
func (b *Scoreboard) BlocksMissing(id PeerID, layer block.Digest, extent uint32, mask uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	l := b.peerLocked(id).layer(layer)
	m := l.missing[extent]
	if !now.Before(m.until) {
		m.blocks = 0
	}
	if len(l.missing) >= maxExtents {
		clear(l.missing)
	}
	l.missing[extent] = missing{blocks: m.blocks | mask, until: now.Add(missTTL)}
}

func (p *peerState) layer(layer block.Digest) *layerState {
	l, ok := p.layers[layer]
	if !ok {
		if len(p.layers) >= maxLayers {
			clear(p.layers)
		}
		l = &layerState{missing: make(map[uint32]missing)}
		p.layers[layer] = l
	}
	return l
}

// Busy notes that a peer asked to be left alone for d, at most a second.
func (b *Scoreboard) Busy(id PeerID, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peerLocked(id).busy = b.now().Add(min(d, time.Second))
}

// Failed notes that a peer did not answer in time or broke off. The second
// failure in a row benches it.
func (b *Scoreboard) Failed(id PeerID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peerLocked(id)
	p.failures++
	if p.failures >= failuresToBench {
		p.bench.fail(b.now())
	}
}

// Ban shuts a peer out for ten minutes, for wrong bytes.
func (b *Scoreboard) Ban(id PeerID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.peerLocked(id).banned = b.now().Add(banTime)
}

// Banned reports whether a peer is shut out.
func (b *Scoreboard) Banned(id PeerID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.peers[id]
	return ok && b.now().Before(p.banned)
}

// Dialled notes how an attempt to connect to a peer ended. A success ends the
// bench: what failed before was another connection.
func (b *Scoreboard) Dialled(id PeerID, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.peerLocked(id)
	if ok {
		p.failures = 0
		p.bench.reset()
		p.dial.reset()
		return
	}
	p.dial.fail(b.now())
}

// DialAt returns when a peer may be dialled next; a time that is not in the
// future means now.
func (b *Scoreboard) DialAt(id PeerID) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.peers[id]
	if !ok {
		return time.Time{}
	}
	if p.banned.After(p.dial.until) {
		return p.banned
	}
	return p.dial.until
}

// Counts returns how many peers are benched and how many are banned.
func (b *Scoreboard) Counts() (benched, banned int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	for _, p := range b.peers {
		if now.Before(p.banned) {
			banned++
		} else if now.Before(p.bench.until) {
			benched++
		}
	}
	return benched, banned
}

const (
	backoffFirst = 5 * time.Second
	backoffMax   = time.Minute
)

// backoff is a pause that doubles with every failure.
type backoff struct {
	until time.Time
	pause time.Duration
}

func (b *backoff) fail(now time.Time) {
	if now.Before(b.until) {
		return // failures of questions asked before the first one came back
	}
	b.pause = min(max(2*b.pause, backoffFirst), backoffMax)
	b.until = now.Add(b.pause)
}

func (b *backoff) reset() { *b = backoff{} }
