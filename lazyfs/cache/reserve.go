package cache

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
)

// errFull means that the cache is full and a block was not cached.
var errFull = fmt.Errorf("cache is full and nothing can be evicted: %w", syscall.ENOSPC)

// errLow is the error of a block that would take what others need of the disk.
var errLow = fmt.Errorf("too little of the disk is free: %w", syscall.ENOSPC)

// share returns a share of a bound.
func share(of int64, water float64) int64 { return int64(float64(of) * water) }

func (d *Disk) highWater() int64 { return share(d.cfg.MaxBytes, d.cfg.HighWater) }
func (d *Disk) lowWater() int64  { return share(d.cfg.MaxBytes, d.cfg.LowWater) }

// maxLayers is the bound of inodes in layers.
func (d *Disk) maxLayers() int64 { return max(1, d.cfg.MaxFiles/LayerFiles) }

// step is how many bytes are evicted at a time where no water mark says how many.
func (d *Disk) step() int64 { return max(d.bytes.Load()/16, block.ExtentSize) }

// evictAhead evicts what is above a mark, so that writers need not.
func (d *Disk) evictAhead() {
	if d.cfg.MaxBytes > 0 && d.bytes.Load() > d.highWater() {
		d.evict(d.lowWater())
	}
	if d.cfg.MaxFiles > 0 && d.layerCount() > share(d.maxLayers(), d.cfg.HighWater) {
		d.evictLayers(share(d.maxLayers(), d.cfg.LowWater))
	}
	if missing := d.missing(0); missing > 0 {
		d.evict(d.bytes.Load() - missing - d.step())
	}
}

// missing returns how many bytes of the filesystem would have to become free before n
// more of them may be taken.
func (d *Disk) missing(n int64) int64 {
	if d.cfg.MinFree <= 0 {
		return 0
	}
	var fs unix.Statfs_t
	if err := withFD(d.lock, func(fd int) error { return unix.Fstatfs(fd, &fs) }); err != nil {
		return 0 // a disk that does not answer says more when it is written to
	}
	return max(0, d.cfg.MinFree+n-int64(fs.Bavail)*fs.Bsize)
}

// reserve counts n bytes more, evicting if that would go over a bound.
func (d *Disk) reserve(n int64) error {
	if missing := d.missing(n); missing > 0 {
		d.evict(d.bytes.Load() - missing - d.step())
		if d.missing(n) > 0 {
			return errLow
		}
	}
	for !d.tryReserve(n) {
		// Other writers may take the room first; then there is more to evict.
		if !d.evict(min(d.lowWater(), d.cfg.MaxBytes-n)) {
			return errFull
		}
	}
	if d.cfg.MaxBytes > 0 && d.bytes.Load() > d.highWater() {
		d.signal()
	}
	return nil
}

// Reserve reserves space for n bytes that are stored beside the blocks, evicting if it has
// to. They count like blocks until Release. More than half of the cache is refused.
// [DiskConfig.EvictReserved] may be called meanwhile.
func (d *Disk) Reserve(n int64) error {
	if d.cfg.MaxBytes > 0 && n > d.cfg.MaxBytes/2 {
		return fmt.Errorf("reserving %d bytes of the cache: %w", n, errFull)
	}
	if err := d.reserve(n); err != nil {
		return fmt.Errorf("reserving %d bytes of the cache: %w", n, err)
	}
	return nil
}

// Release gives back what Reserve has taken.
func (d *Disk) Release(n int64) { d.bytes.Add(-n) }

func (d *Disk) tryReserve(n int64) bool {
	for {
		bytes := d.bytes.Load()
		if d.cfg.MaxBytes > 0 && bytes+n > d.cfg.MaxBytes {
			return false
		}
		if d.bytes.CompareAndSwap(bytes, bytes+n) {
			return true
		}
	}
}

func (d *Disk) layerCount() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return int64(len(d.layers))
}

// reserveLayer makes room for the files of one layer more.
func (d *Disk) reserveLayer() error {
	if d.cfg.MaxFiles <= 0 {
		return nil
	}
	if d.layerCount() >= d.maxLayers() {
		d.evictLayers(min(share(d.maxLayers(), d.cfg.LowWater), d.maxLayers()-1))
	}
	if d.layerCount() >= d.maxLayers() {
		return errFull
	}
	return nil
}

// evictLayers removes the layers not used for longest, until no more than target are
// left or nothing else can go.
func (d *Disk) evictLayers(target int64) {
	d.evictMu.Lock()
	defer d.evictMu.Unlock()
	excess := d.layerCount() - target
	if excess <= 0 {
		return
	}
	d.cfg.OnEvict()
	type candidate struct {
		layer *layer
		used  uint64
	}
	var candidates []candidate
	for _, l := range d.all() {
		if l.removable() {
			candidates = append(candidates, candidate{l, l.lastUse()})
		}
	}
	slices.SortFunc(candidates, func(a, b candidate) int { return cmp.Compare(a.used, b.used) })
	for _, c := range candidates[:min(excess, int64(len(candidates)))] {
		held := c.layer.held()
		if err := d.Remove(c.layer.id); err != nil && !errors.Is(err, errRemoved) {
			d.metrics.failures.Inc()
			d.cfg.Logger.Error("layer not evicted", "layer", c.layer.id.String(), "error", err)
			continue
		}
		d.metrics.evicted.Add(float64(held))
	}
}

// removable reports whether nothing of the layer has to stay.
func (l *layer) removable() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.pins == 0 && !l.stale && l.pinned == nil
}

// lastUse returns the tick of the last use of any block.
func (l *layer) lastUse() uint64 {
	var last uint64
	for i := range l.used {
		last = max(last, l.used[i].Load())
	}
	return last
}

// held returns how many blocks may be read.
func (l *layer) held() uint32 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.present.count()
}
