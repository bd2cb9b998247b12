package cache

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
)

// readAttempts bounds how often a read is repeated because blocks of the layer were
// evicted meanwhile; after that the block counts as not found, which is always safe.
const readAttempts = 8

// Fetch implements [block.Source].
func (d *Disk) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Count == 0 {
		return nil
	}
	var end uint64
	l := d.lookup(req.Layer)
	if l != nil {
		end = min(uint64(req.First)+uint64(req.Count), uint64(l.count))
	}
	failed := error(nil)
	if l == nil || end < uint64(req.First)+uint64(req.Count) {
		failed = block.ErrNotFound
	}
	buf := d.buffer()
	defer d.buffers.Put(buf)
	for i := uint64(req.First); i < end; i++ {
		if ctx.Err() != nil {
			return d.wrap(req.Range, context.Cause(ctx))
		}
		data, err := d.read(l, uint32(i), buf)
		if err != nil {
			failed = err
			continue
		}
		if err := sink(block.Key{Layer: req.Layer, Index: uint32(i)}, data); err != nil {
			return err
		}
	}
	if failed != nil {
		return d.wrap(req.Range, failed)
	}
	return nil
}

func (d *Disk) wrap(r block.Range, err error) error {
	return &block.Error{Source: "disk", Op: "reading", Range: r, Err: err}
}

// read returns block i, read into buf. The first time after a start it is verified.
func (d *Disk) read(l *layer, i uint32, buf *[block.Size]byte) ([]byte, error) {
	data := buf[:l.length(i)]
	for range readAttempts {
		cleared := l.cleared.Load()
		present, trusted, checked := l.state(i)
		if !present {
			return nil, block.ErrNotFound
		}
		_, err := l.data.ReadAt(data, int64(i)*block.Size)
		if l.cleared.Load() != cleared {
			continue
		}
		if err != nil {
			return nil, d.unreadable(l, err)
		}
		if !checked && !d.verify(l, i, data, cleared, trusted) {
			return nil, block.ErrNotFound
		}
		d.touch(l, i)
		return data, nil
	}
	return nil, block.ErrNotFound
}

// unreadable translates an error of the data file.
func (d *Disk) unreadable(l *layer, err error) error {
	if errors.Is(err, os.ErrClosed) {
		return block.ErrNotFound // removed, or the cache is being closed
	}
	d.metrics.failures.Inc()
	return fmt.Errorf("reading %s: %w", l.dataPath(), err)
}

// verify checks a block of before the last start, read when cleared was as given.
// A wrong block is dropped; rotten says that a clean stop has vouched for it.
func (d *Disk) verify(l *layer, i uint32, data []byte, cleared uint64, rotten bool) bool {
	k := block.Key{Layer: l.id, Index: i}
	want, ok := d.cfg.Layout.BlockDigest(k)
	if !ok {
		return false
	}
	if block.Sum(data) == want {
		l.trust(i, cleared)
		return true
	}
	d.reject(l, i, cleared, rotten)
	return false
}

func (d *Disk) touch(l *layer, i uint32) {
	l.used[i/block.ExtentBlocks].Store(d.tick.Add(1))
}

// ReadAt fills p with the bytes of a layer stream from off on. It returns fewer
// bytes only at the end of the stream, and none with an error wrapping
// [block.ErrNotFound] when not all blocks that hold them are there. It reads straight
// into p and allocates nothing.
func (d *Disk) ReadAt(layer block.Digest, p []byte, off int64) (int, error) {
	l := d.lookup(layer)
	if l == nil || off < 0 {
		return 0, block.ErrNotFound
	}
	p = p[:max(0, min(int64(len(p)), l.size-off))]
	if len(p) == 0 {
		return 0, nil
	}
	r := block.Covering(layer, off, int64(len(p)))
	for range readAttempts {
		cleared := l.cleared.Load()
		present, trusted := l.holds(r.First, r.End()-1)
		if !present {
			return 0, block.ErrNotFound
		}
		if !trusted {
			if err := d.verifyRange(l, r.First, r.End()); err != nil {
				return 0, err
			}
			continue
		}
		n, err := l.data.ReadAt(p, off)
		if l.cleared.Load() != cleared {
			continue
		}
		if err != nil {
			return 0, d.unreadable(l, err)
		}
		for i := r.First; i < r.End(); i += block.ExtentBlocks {
			d.touch(l, i)
		}
		d.touch(l, r.End()-1)
		return n, nil
	}
	return 0, block.ErrNotFound
}

// verifyRange verifies the blocks from first up to end that need it. It fails if one
// of them is not there or turns out wrong.
func (d *Disk) verifyRange(l *layer, first, end uint32) error {
	buf := d.buffer()
	defer d.buffers.Put(buf)
	for i := first; i < end; i++ {
		if _, trusted, _ := l.state(i); trusted {
			continue
		}
		if _, err := d.read(l, i, buf); err != nil {
			return err
		}
	}
	return nil
}

// ReleasePages gives the page cache of a range of a layer stream back to the system,
// where another page cache, such as that of a mount, holds the same bytes. Pages that
// are not yet written stay.
func (d *Disk) ReleasePages(layer block.Digest, off, n int64) error {
	l := d.lookup(layer)
	if l == nil {
		return nil
	}
	err := withFD(l.data, func(fd int) error { return unix.Fadvise(fd, off, n, unix.FADV_DONTNEED) })
	if err != nil {
		return fmt.Errorf("releasing page cache of %s: %w", l.dataPath(), err)
	}
	return nil
}

// Has implements [block.Holder].
func (d *Disk) Has(k block.Key) bool {
	l := d.lookup(k.Layer)
	if l == nil || k.Index >= l.count {
		return false
	}
	present, _, _ := l.state(k.Index)
	return present
}
