package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
)

// CheckResult is the result of [Disk.Check].
type CheckResult int

// The results.
const (
	// BlockAbsent: the cache does not have the block.
	BlockAbsent CheckResult = iota
	// BlockValid: the bytes on disk match the digest.
	BlockValid
	// BlockCorrupt: they do not match. The block was removed from the cache.
	BlockCorrupt
	// BlockUnknown: the layout has no digest for the block.
	BlockUnknown
)

// CorruptBlock is a block with wrong bytes, which was removed from the cache.
type CorruptBlock struct {
	Key block.Key
	// BitRot is true if the block was verified before, in this process or before a clean
	// stop, so the disk has changed it. Otherwise the write of the block may be incomplete.
	BitRot bool
	// DirectlyMounted is true if a mount reads the file of the layer directly, so the file still has
	// the wrong bytes. Otherwise they were punched out.
	DirectlyMounted bool
}

// directAlign is the alignment that direct I/O needs on every disk in use.
const directAlign = 4096

// CheckBuffer is the buffer of [Disk.Check]. One caller at a time may use it.
type CheckBuffer struct {
	data     []byte // of block.Size bytes, aligned
	buffered bool   // the filesystem knows no direct I/O
}

// NewCheckBuffer returns a buffer.
func NewCheckBuffer() *CheckBuffer {
	raw := make([]byte, block.Size+directAlign)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & (directAlign - 1) //nolint:gosec // only its alignment is looked at
	return &CheckBuffer{data: raw[skip : skip+block.Size]}
}

// Check reads a block from the disk, bypassing the page cache, and hashes it. It removes a
// block that is wrong or unreadable from the cache and reports it to [DiskConfig.OnCorrupt]. If
// the result is Right, it returns the bytes; they are valid until buf is used again. Check does
// not count as a use of the block.
func (d *Disk) Check(k block.Key, buf *CheckBuffer) (CheckResult, []byte, error) {
	l := d.lookup(k.Layer)
	if l == nil || k.Index >= l.count {
		return BlockAbsent, nil, nil
	}
	want, known := d.cfg.Layout.BlockDigest(k)
	if !known {
		return BlockUnknown, nil, nil
	}
	for range readAttempts {
		cleared := l.cleared.Load()
		present, trusted, _ := l.state(k.Index)
		if !present {
			return BlockAbsent, nil, nil
		}
		data, err := d.readDirect(l, k.Index, buf)
		if l.cleared.Load() != cleared {
			continue
		}
		switch {
		case errors.Is(err, os.ErrClosed), errors.Is(err, fs.ErrNotExist):
			return BlockAbsent, nil, nil // being removed
		case err != nil && !unreadableSector(err):
			return BlockAbsent, nil, fmt.Errorf("checking block %s: %w", k, err)
		case err == nil && block.Sum(data) == want:
			l.prove(k.Index, cleared)
			return BlockValid, data, nil
		}
		d.reject(l, k.Index, cleared, trusted)
		return BlockCorrupt, nil, nil
	}
	return BlockAbsent, nil, nil // evicted over and over
}

// unreadableSector reports whether an error says that the disk has lost the bytes.
func unreadableSector(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EBADMSG) ||
		errors.Is(err, unix.EILSEQ) || errors.Is(err, io.ErrUnexpectedEOF)
}

// prove notes that block i was read back, provided that no bit has been cleared since
// cleared was read.
func (l *layer) prove(i uint32, cleared uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cleared.Load() == cleared && l.present.has(i) {
		l.trusted.set(i)
		l.checked.set(i)
		l.proven.set(i)
	}
}

// reject drops a block that was found wrong when cleared was as given.
func (d *Disk) reject(l *layer, i uint32, cleared uint64, rotten bool) {
	k := block.Key{Layer: l.id, Index: i}
	if d.drop(l, []span{{i, i + 1}}, func(uint32) bool { return l.cleared.Load() == cleared }) == 0 {
		return // somebody else was first
	}
	l.mu.RLock()
	mapped := l.pins > 0 || l.stale
	l.mu.RUnlock()
	d.metrics.corrupt.Inc()
	d.cfg.Logger.Warn("cached block is corrupt and counts as absent", "block", k.String(), "rotten", rotten, "mapped", mapped)
	d.cfg.OnCorrupt(CorruptBlock{Key: k, BitRot: rotten, DirectlyMounted: mapped})
}

// readDirect reads block i from the disk.
func (d *Disk) readDirect(l *layer, i uint32, buf *CheckBuffer) ([]byte, error) {
	data, off := buf.data[:l.length(i)], int64(i)*block.Size
	if !buf.buffered {
		err := d.withDirect(l, func(fd int) error { return preadFull(fd, buf.data, len(data), off) })
		if err == nil || !errors.Is(err, unix.EINVAL) {
			return data, err
		}
		buf.buffered = true
	}
	// What the page cache has is given back before, so that the disk is read, and after.
	for _, step := range []func() error{
		func() error { return d.ReleasePages(l.id, off, int64(len(data))) },
		func() error { _, err := l.data.ReadAt(data, off); return err },
		func() error { return d.ReleasePages(l.id, off, int64(len(data))) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// preadFull reads n bytes at off into a buffer that is as long as direct I/O wants.
func preadFull(fd int, p []byte, n int, off int64) error {
	p = p[:(n+directAlign-1)/directAlign*directAlign]
	for {
		got, err := unix.Pread(fd, p, off)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case got < n:
			return io.ErrUnexpectedEOF
		default:
			return nil
		}
	}
}

// withDirect calls read with a descriptor that goes past the page cache.
func (d *Disk) withDirect(l *layer, read func(fd int) error) error {
	l.mu.Lock()
	l.direct++
	l.mu.Unlock()
	fd, err := unix.Open(l.dataPath(), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err == nil {
		err = errors.Join(read(fd), unix.Close(fd))
	}
	l.mu.Lock()
	l.direct--
	again := l.direct == 0 && l.recheck
	if again {
		l.recheck = false
	}
	l.mu.Unlock()
	if again {
		d.dropStalePin(l)
	}
	return err
}

// proveAll reads back what was not read back since it was written. It fails if a block is
// not there or wrong.
func (d *Disk) proveAll(l *layer) error {
	var buf *CheckBuffer
	for i := range l.count {
		l.mu.RLock()
		proven := l.proven.has(i)
		l.mu.RUnlock()
		if proven {
			continue
		}
		if buf == nil {
			buf = NewCheckBuffer()
		}
		verdict, _, err := d.Check(block.Key{Layer: l.id, Index: i}, buf)
		if err != nil {
			return err
		}
		if verdict != BlockValid {
			return block.ErrNotFound
		}
	}
	return nil
}

// Proven reports whether every block of the layer was read back since it was written.
func (d *Disk) Proven(layer block.Digest) bool {
	l := d.lookup(layer)
	if l == nil {
		return false
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.completeLocked() && l.proven.count() == l.count
}

// LastUse returns a number that grows with every use of a block, as it was at the last
// use of the layer.
func (d *Disk) LastUse(layer block.Digest) uint64 {
	l := d.lookup(layer)
	if l == nil {
		return 0
	}
	return l.lastUse()
}

// cleanContent is the content of the file that marks a clean stop: after the version the
// layers that were read back whole, one a line.
func (d *Disk) cleanContent() []byte {
	var text strings.Builder
	text.WriteString(versionText)
	for _, l := range d.all() {
		if d.Proven(l.id) {
			text.WriteString(l.id.String() + "\n")
		}
	}
	return []byte(text.String())
}

// cleanMax bounds the file that marks a clean stop: it has room for 200,000 layers.
const cleanMax = 16 << 20

// readClean reads the file that marks a clean stop. What it does not name is read back again.
func readClean(path string) (clean bool, proven map[block.Digest]bool, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, err
	}
	content, err := io.ReadAll(io.LimitReader(f, cleanMax))
	if err := errors.Join(err, f.Close()); err != nil {
		return false, nil, err
	}
	proven = make(map[block.Digest]bool)
	for line := range strings.Lines(strings.TrimPrefix(string(content), versionText)) {
		if id, err := block.ParseDigest(strings.TrimSuffix(line, "\n")); err == nil {
			proven[id] = true
		}
	}
	return true, proven, nil
}
