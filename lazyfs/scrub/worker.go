package scrub

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

// worker is the goroutine of a Scrubber.
type worker struct {
	*Scrubber
	buf   *cache.CheckBuffer
	layer Layer        // that the pass has open
	open  block.Digest // its stream ID, zero for none
}

// step does what is most urgent, or waits until something is to be done.
func (w *worker) step(ctx context.Context) {
	now := time.Now()
	if k, ok := w.dueRepair(now); ok {
		w.mend(ctx, k)
		return
	}
	if k, ok := w.dueStale(now); ok {
		w.look(ctx, k)
		return
	}
	if layer, ok := w.takeComplete(); ok {
		w.readBack(ctx, layer)
		return
	}
	if w.passDue(now) {
		w.stepPass(ctx)
		return
	}
	w.closeLayer()
	timer := time.NewTimer(max(0, time.Until(w.nextDue(now))))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-w.wake:
	case <-timer.C:
	}
}

func (w *worker) takeComplete() (block.Digest, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.complete) == 0 {
		return block.Digest{}, false
	}
	layer := w.complete[0]
	w.complete = w.complete[1:]
	return layer, true
}

// passDue reports whether the next step of a pass is to be taken.
func (w *worker) passDue(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Paused || w.cfg.Interval <= 0 && !w.forced {
		return false
	}
	if !w.state.inPass() {
		if now.Before(w.state.PassStarted.Add(w.cfg.Interval)) {
			return false
		}
		w.state.beginPass(now)
		w.dirty = true
	}
	return !now.Before(w.next)
}

// nextDue returns when there is something to do, as far as is known now.
func (w *worker) nextDue(now time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	due := now.Add(24 * time.Hour)
	for _, r := range w.repairs {
		if r.notBefore.Before(due) {
			due = r.notBefore
		}
	}
	for _, b := range w.stale {
		if b.notBefore.Before(due) {
			due = b.notBefore
		}
	}
	passes := !w.state.Paused && (w.cfg.Interval > 0 || w.forced)
	switch next := w.state.PassStarted.Add(w.cfg.Interval); {
	case passes && w.state.inPass() && w.next.Before(due):
		due = w.next
	case passes && !w.state.inPass() && next.Before(due):
		due = next
	}
	return due
}

// readBack reads a complete layer once more, before a mount uses its file.
func (w *worker) readBack(ctx context.Context, layer block.Digest) {
	var observer Observer
	if w.cfg.Observe != nil {
		observer = w.cfg.Observe(ctx, layer)
	}
	whole := false
	if observer != nil {
		defer func() { observer.Close(whole) }()
	} else if w.cfg.Disk.Proven(layer) {
		return
	}
	known, err := w.cfg.Open(ctx, layer)
	if err != nil {
		w.cfg.Logger.DebugContext(ctx, "complete layer is not read back", "layer", layer.String(), "error", err)
		return
	}
	defer known.Release()
	usage, _ := w.cfg.Disk.LayerUsage(layer)
	share := urgentShare
	if observer != nil {
		share /= observedCost
	}
	right := uint32(0)
	for i := range usage.Blocks {
		// Somebody may be reading wrong bytes, and a long layer takes minutes.
		if k, ok := w.dueRepair(time.Now()); ok {
			w.mend(ctx, k)
		}
		verdict, data := w.check(ctx, block.Key{Layer: layer, Index: i}, share)
		if ctx.Err() != nil {
			return
		}
		if verdict != cache.BlockValid {
			continue // the others are worth it
		}
		if right++; observer != nil {
			observer.Write(data)
		}
	}
	whole = right == usage.Blocks
}

// check checks one block and then pauses for so long that the share of a core is kept.
func (w *worker) check(ctx context.Context, k block.Key, share float64) (cache.CheckResult, []byte) {
	before := threadTime()
	verdict, data, err := w.cfg.Disk.Check(k, w.buf)
	if err != nil {
		w.cfg.Logger.WarnContext(ctx, "cached block cannot be checked", "block", k.String(), "error", err)
	}
	if len(data) > 0 {
		w.metrics.checked.Add(float64(len(data)))
	}
	took := threadTime() - before
	w.metrics.cpu.Add(took.Seconds())
	timer := time.NewTimer(time.Duration(float64(took) * (1/share - 1)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return verdict, data
}

// stepPass checks the next extent of the pass.
func (w *worker) stepPass(ctx context.Context) {
	layer, ok := w.currentLayer()
	if !ok {
		w.endPass(ctx)
		return
	}
	if err := w.openLayer(ctx, layer); err != nil {
		if !errors.Is(err, block.ErrNotFound) {
			w.cfg.Logger.WarnContext(ctx, "layer is not scrubbed", "layer", layer.String(), "error", err)
		}
		w.finishLayer(layer)
		return
	}
	w.mu.Lock()
	first, share := w.state.Next, passShare
	if w.forced {
		share = urgentShare
	}
	w.mu.Unlock()
	usage, _ := w.cfg.Disk.LayerUsage(layer)
	end := min(first+block.ExtentBlocks, usage.Blocks)
	var bytes int64
	for i := first; i < end && ctx.Err() == nil; i++ {
		k := block.Key{Layer: layer, Index: i}
		if w.cfg.Disk.Has(k) {
			w.check(ctx, k, share)
			bytes += int64(block.Length(usage.Size, i))
		}
	}
	if ctx.Err() != nil {
		return
	}
	w.advance(layer, end, bytes)
	if end >= usage.Blocks {
		w.finishLayer(layer)
	}
}

// currentLayer returns the layer that the pass is at: of those that are left the one used last.
func (w *worker) currentLayer() (block.Digest, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var best block.Digest
	var used uint64
	found := false
	for _, layer := range w.cfg.Disk.Layers() {
		if layer == w.state.Current {
			return layer, true
		}
		last := w.cfg.Disk.LastUse(layer)
		if _, done := w.state.Done[layer]; !done && (!found || last > used) {
			best, used, found = layer, last, true
		}
	}
	w.state.Current, w.state.Next = best, 0
	return best, found
}

// advance notes how far the pass is, and when its next step is due.
func (w *worker) advance(layer block.Digest, next uint32, bytes int64) {
	total := w.cfg.Disk.Usage().Bytes
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Current != layer {
		return // a pass on demand has begun meanwhile
	}
	w.state.Next, w.dirty = next, true
	w.state.CheckedBytes += bytes
	w.next = time.Time{}
	if w.forced || bytes == 0 {
		return
	}
	now := time.Now()
	left := w.state.PassStarted.Add(time.Duration(float64(w.cfg.Interval) * spread)).Sub(now)
	steps := max(1, (total-w.state.CheckedBytes)/block.ExtentSize)
	w.next = now.Add(min(max(0, left)/time.Duration(steps), longestPause))
}

// finishLayer ends the pass over a layer.
func (w *worker) finishLayer(layer block.Digest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state.Current != layer {
		return
	}
	w.state.Done[layer] = struct{}{}
	w.state.Current, w.state.Next, w.dirty = block.Digest{}, 0, true
}

func (w *worker) endPass(ctx context.Context) {
	w.closeLayer()
	w.mu.Lock()
	w.state.endPass(time.Now())
	w.forced, w.dirty = false, true
	checked, took := w.state.CheckedBytes, w.state.LastPass.Sub(w.state.PassStarted)
	w.mu.Unlock()
	w.cfg.Logger.InfoContext(ctx, "scrubbing pass is complete", "bytes", checked, "took", took)
}

// openLayer opens the layer that the pass is at, and closes the one before.
func (w *worker) openLayer(ctx context.Context, layer block.Digest) error {
	if w.open == layer {
		return nil
	}
	w.closeLayer()
	known, err := w.cfg.Open(ctx, layer)
	if err != nil {
		return err
	}
	w.layer, w.open = known, layer
	return nil
}

func (w *worker) closeLayer() {
	if !w.open.IsZero() {
		w.layer.Release()
	}
	w.layer, w.open = Layer{}, block.Digest{}
}

// setIdleIO makes the kernel serve the reads of this thread when the disk has nothing else to do.
func setIdleIO() error {
	const (
		process   = 1 // IOPRIO_WHO_PROCESS, 0 for the calling thread
		idleClass = 3 << 13
	)
	if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, process, 0, idleClass); errno != 0 {
		return errno
	}
	return nil
}

// threadTime returns the CPU time of this thread.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
