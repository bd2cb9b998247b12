package cache

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// Put implements [block.Store]. The layer must be known to the Layout. When there is
// no room for the block, and none can be made, the error wraps [syscall.ENOSPC].
func (d *Disk) Put(ctx context.Context, k block.Key, data []byte) error {
	if err := d.put(ctx, k, data); err != nil {
		d.metrics.failures.Inc()
		return fmt.Errorf("caching block %s: %w", k, err)
	}
	return nil
}

func (d *Disk) put(ctx context.Context, k block.Key, data []byte) error {
	l, err := d.create(ctx, k.Layer)
	if err != nil {
		return err
	}
	if k.Index >= l.count || len(data) != l.length(k.Index) {
		return fmt.Errorf("block of %d bytes, want %d", len(data), l.length(k.Index))
	}
	if present, trusted, _ := l.state(k.Index); present && !trusted {
		// Either it turns out right, or it is dropped and written anew.
		if err := d.verifyRange(l, k.Index, k.Index+1); err != nil && !errors.Is(err, block.ErrNotFound) {
			return err
		}
	}
	claimed, err := l.claim(ctx, k.Index)
	if err != nil || !claimed {
		return err
	}
	size := int64(len(data))
	if err := d.reserve(size); err != nil {
		l.abandon(k.Index)
		return err
	}
	if _, err := l.data.WriteAt(data, k.Offset()); err != nil {
		return d.undo(l, k, size, err)
	}
	d.hook("written")
	d.touch(l, k.Index)
	d.fresh.add(l, k.Index, time.Now())
	complete, err := l.publish(k.Index)
	if err != nil {
		d.bytes.Add(-size)
		return err
	}
	if complete {
		d.cfg.OnComplete(l.id)
	}
	if d.unflushed.Add(size) > d.cfg.CommitBytes {
		d.signal()
	}
	return nil
}

// undo gives back what a failed write has taken.
func (d *Disk) undo(l *layer, k block.Key, size int64, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		// Whatever else fills the disk: the cache is what can be done without.
		d.evict(d.bytes.Load() - d.step())
	}
	punched := punch(l.data, k.Offset(), block.Size)
	d.bytes.Add(-size)
	l.abandon(k.Index)
	return errors.Join(err, punched)
}
