package cache

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
)

// Repin takes back a pin that a process before this one held when it ended. No block is
// looked at: the mount that it is for reads the file either way. If the cache does not
// know the layer the error wraps [block.ErrNotFound].
func (d *Disk) Repin(layer block.Digest) (release func(), err error) {
	l := d.lookup(layer)
	if l == nil {
		return nil, fmt.Errorf("pinning layer %s again: %w", layer.Short(), block.ErrNotFound)
	}
	if err := d.addPin(l); err != nil {
		return nil, fmt.Errorf("pinning layer %s again: %w", layer.Short(), err)
	}
	return sync.OnceFunc(func() { d.dropPin(l) }), nil
}

// Pin returns the path of the file with the whole layer stream, for a mount that
// uses it without the cache, and keeps every block of the layer until release is
// called. If the layer is not complete the error wraps [block.ErrNotFound].
//
// Blocks that were not read back from the disk and hashed since they were written, by
// [Disk.Check] or an earlier Pin, are read back first. A wrong one is dropped, and the
// layer is not complete. The pin survives the process: after a stop without release the
// layer stays whole until [Disk.DropStalePins].
func (d *Disk) Pin(layer block.Digest) (path string, release func(), err error) {
	l := d.lookup(layer)
	if l == nil {
		return "", nil, fmt.Errorf("pinning layer %s: %w", layer.Short(), block.ErrNotFound)
	}
	if l.count > 0 {
		if present, _ := l.holds(0, l.count-1); !present {
			return "", nil, fmt.Errorf("pinning layer %s: %w", layer.Short(), block.ErrNotFound)
		}
	}
	// The mark is set before the blocks are looked at, so that nothing is evicted
	// in between, and comes off again if the layer is not complete.
	if err := d.addPin(l); err != nil {
		return "", nil, fmt.Errorf("pinning layer %s: %w", layer.Short(), err)
	}
	err = d.proveAll(l)
	l.mu.RLock()
	if err == nil && !l.completeLocked() {
		err = block.ErrNotFound
	}
	l.mu.RUnlock()
	if err == nil {
		// Whoever opens the cache after a crash is to find the layer complete: the
		// mount may still be there.
		err = l.commit(d.hook)
	}
	if err != nil {
		d.dropPin(l)
		return "", nil, fmt.Errorf("pinning layer %s: %w", layer.Short(), err)
	}
	return l.dataPath(), sync.OnceFunc(func() { d.dropPin(l) }), nil
}

// addPin pins the layer as a whole and notes it on disk.
func (d *Disk) addPin(l *layer) error {
	l.recordMu.Lock()
	defer l.recordMu.Unlock()
	l.mu.Lock()
	gone := l.gone
	l.pins++
	l.mu.Unlock()
	var err error
	if gone {
		err = block.ErrNotFound
	} else {
		err = statefile.WriteDurable(l.pinPath(), nil)
	}
	if err != nil {
		l.mu.Lock()
		l.pins--
		l.mu.Unlock()
	}
	return err
}

func (d *Disk) dropPin(l *layer) {
	l.recordMu.Lock()
	defer l.recordMu.Unlock()
	l.mu.Lock()
	l.pins--
	last := l.pins == 0 && !l.stale
	// A mount that was detached lives on in containers, unseen.
	l.stale = l.stale || last && l.mappedLocked()
	unpinned := last && !l.stale
	l.mu.Unlock()
	if unpinned {
		d.removePinMark(l)
	}
}

// removePinMark needs recordMu.
func (d *Disk) removePinMark(l *layer) {
	if err := removeFile(l.pinPath()); err != nil {
		d.cfg.Logger.Warn("mark of a pinned layer not removed, it stays pinned after a restart",
			"layer", l.id.String(), "error", err)
	}
}

// DropStalePins ends pins that nobody has: those of the process before this one, and
// those that were released while the file was in use. It is to be called once the mounts
// that are still there have been pinned again, and now and then after that. A layer
// whose file something else has open, such as a mount in a container that this machine
// does not list, stays pinned: it would read zeros where blocks are evicted.
func (d *Disk) DropStalePins() {
	for _, l := range d.all() {
		d.dropStalePin(l)
	}
}

func (d *Disk) dropStalePin(l *layer) {
	l.recordMu.Lock()
	defer l.recordMu.Unlock()
	l.mu.Lock()
	dropped := l.stale && l.pins == 0 && !l.mappedLocked()
	if dropped || l.pins > 0 {
		l.stale = false
	}
	l.mu.Unlock()
	if dropped {
		d.removePinMark(l)
	}
}

// mappedLocked reports whether anything but this cache has the data file open, a mount
// included. Only then the kernel refuses a lease for writing. Where it knows no
// leases the answer is no. While the cache itself has another descriptor of the file the
// answer is yes, and the question is asked again once that is closed.
func (l *layer) mappedLocked() bool {
	if l.direct > 0 {
		l.recheck = true
		return true
	}
	err := withFD(l.data, func(fd int) error {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
			return err
		}
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
		return err
	})
	return errors.Is(err, unix.EAGAIN)
}

// PinSet keeps the blocks of the ranges, such as the start-up set of an image, from
// being evicted once they are in the cache. It replaces the set of the same name;
// a set without ranges is no set. Blocks in several sets stay as long as one set
// has them.
func (d *Disk) PinSet(name string, ranges ...block.Range) {
	d.mu.Lock()
	affected := append(d.sets[name], ranges...)
	if len(ranges) > 0 {
		d.sets[name] = append([]block.Range(nil), ranges...)
	} else {
		delete(d.sets, name)
	}
	changed := make(map[*layer]bitset)
	for _, r := range affected {
		if l := d.layers[r.Layer]; l != nil && changed[l] == nil {
			changed[l] = pinnedOf(d.sets, l)
		}
	}
	for l, pinned := range changed {
		l.mu.Lock()
		l.pinned = pinned
		l.mu.Unlock()
	}
	d.mu.Unlock()
}

// pinnedOf returns the blocks of the layer that are in a set, nil for none.
func pinnedOf(sets map[string][]block.Range, l *layer) bitset {
	var pinned bitset
	for _, ranges := range sets {
		for _, r := range ranges {
			if r.Layer != l.id {
				continue
			}
			if pinned == nil {
				pinned = newBitset(l.count)
			}
			for i := uint64(r.First); i < min(uint64(r.First)+uint64(r.Count), uint64(l.count)); i++ {
				pinned.set(uint32(i))
			}
		}
	}
	return pinned
}

// Complete reports whether every block of the layer is in the cache, verified.
func (d *Disk) Complete(layer block.Digest) bool {
	l := d.lookup(layer)
	if l == nil {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.completeLocked()
}

// Verify verifies what is there of the layer and was not verified since the last
// stop that was not clean. Wrong blocks are dropped; that is not an error.
func (d *Disk) Verify(layer block.Digest) error {
	l := d.lookup(layer)
	if l == nil {
		return nil
	}
	for i := range l.count {
		if err := d.verifyRange(l, i, i+1); err != nil && !errors.Is(err, block.ErrNotFound) {
			return err
		}
	}
	return nil
}
