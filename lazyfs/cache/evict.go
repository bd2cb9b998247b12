package cache

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// victim is an extent of which blocks may be evicted.
type victim struct {
	layer *layer
	first uint32 // first block of the extent
	bytes int64  // of its blocks that may be evicted
	used  uint64
}

// evict evicts the extents not used for longest until no more than target bytes
// are left. It reports false if something had to go and nothing could.
func (d *Disk) evict(target int64) bool {
	d.evictMu.Lock()
	defer d.evictMu.Unlock()
	excess := d.bytes.Load() - target
	if excess <= 0 {
		return true
	}
	shed := d.shed(excess, shedIdle)
	if excess -= shed; excess <= 0 {
		return true
	}
	d.cfg.OnEvict()
	var victims []victim
	for _, l := range d.all() {
		victims = l.appendVictims(victims)
	}
	slices.SortFunc(victims, func(a, b victim) int {
		return cmp.Or(cmp.Compare(a.used, b.used), cmp.Compare(b.first, a.first))
	})
	// One record has to be written for each layer, so all extents of a layer go
	// together.
	extents := make(map[*layer][]span)
	var order []*layer
	for _, v := range victims {
		if excess <= 0 {
			break
		}
		excess -= v.bytes
		if extents[v.layer] == nil {
			order = append(order, v.layer)
		}
		extents[v.layer] = append(extents[v.layer], span{v.first, min(v.first+block.ExtentBlocks, v.layer.count)})
	}
	dropped := 0
	for _, l := range order {
		dropped += d.drop(l, extents[l], l.evictableLocked)
	}
	d.metrics.evicted.Add(float64(dropped))
	if excess > 0 {
		shed += d.shed(excess, 0)
	}
	return dropped > 0 || shed > 0
}

// shedIdle is how long what others keep in the room of the cache has to be idle to go before
// any block does: as long as what is no start any more.
const shedIdle = time.Minute

// shed lets others give up room.
func (d *Disk) shed(n int64, idle time.Duration) int64 {
	if d.cfg.EvictReserved == nil {
		return 0
	}
	return d.cfg.EvictReserved(n, idle)
}

// appendVictims adds the extents of the layer of which blocks may be evicted.
func (l *layer) appendVictims(victims []victim) []victim {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range l.present.spans(l.count, true) {
		for i := s.first; i < s.end; i++ {
			if !l.evictableLocked(i) {
				continue
			}
			first := i - i%block.ExtentBlocks
			if n := len(victims); n == 0 || victims[n-1].layer != l || victims[n-1].first != first {
				victims = append(victims, victim{layer: l, first: first, used: l.used[first/block.ExtentBlocks].Load()})
			}
			victims[len(victims)-1].bytes += int64(l.length(i))
		}
	}
	return victims
}

// drop takes those of the blocks out of the cache for which may, called with the
// layer locked, says yes. It returns how many. The order is what makes it safe:
// bits in memory, record, data.
func (d *Disk) drop(l *layer, blocks []span, may func(i uint32) bool) int {
	claimed := l.claimPresent(blocks, may)
	if len(claimed) == 0 {
		return 0
	}
	d.hook("cleared")
	if err := l.eraseRecord(claimed); err != nil {
		l.unclaim(claimed)
		d.metrics.failures.Inc()
		d.cfg.Logger.Error("blocks not evicted", "layer", l.id.String(), "error", err)
		return 0
	}
	d.hook("forgotten")
	if err := d.punchHoles(l, claimed); err != nil {
		// The blocks are absent; only their room is not given back until they are
		// written again or the cache is opened anew.
		d.metrics.failures.Inc()
		d.cfg.Logger.Error("space of evicted blocks not freed", "layer", l.id.String(), "error", err)
	}
	var freed int64
	for _, i := range claimed {
		freed += int64(l.length(i))
		l.abandon(i)
	}
	d.bytes.Add(-freed)
	return len(claimed)
}

// punchHoles punches holes where the blocks, in ascending order within each extent,
// have been. The file of a pinned layer keeps its data, however wrong: a mount that
// reads it is not to find zeros.
func (d *Disk) punchHoles(l *layer, claimed []uint32) error {
	l.mu.RLock()
	pinned, gone := l.pins > 0 || l.stale, l.gone
	l.mu.RUnlock()
	if pinned || gone {
		return nil
	}
	for len(claimed) > 0 {
		n := 1
		for n < len(claimed) && claimed[n] == claimed[0]+uint32(n) {
			n++
		}
		if err := punch(l.data, int64(claimed[0])*block.Size, int64(n)*block.Size); err != nil {
			return fmt.Errorf("punching a hole in %s: %w", l.dataPath(), err)
		}
		d.hook("punched")
		claimed = claimed[n:]
	}
	return nil
}
