package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
)

// open prepares the directory and loads what is in it.
func (d *Disk) open() error {
	layers := filepath.Join(d.cfg.Dir, "layers")
	if err := os.MkdirAll(layers, dirMode); err != nil {
		return err
	}
	lock, err := lockDir(d.cfg.Dir)
	if err != nil {
		return err
	}
	d.lock = lock
	if err := d.load(layers); err != nil {
		return errors.Join(err, d.release())
	}
	return nil
}

func (d *Disk) load(layers string) error {
	if err := d.checkVersion(); err != nil {
		return err
	}
	if err := d.checkPunch(); err != nil {
		return err
	}
	clean, proven, err := readClean(d.cleanPath())
	if err != nil {
		return err
	}
	if err := removeFile(d.cleanPath()); err != nil {
		return err
	}
	if err := syncDir(d.cfg.Dir); err != nil {
		return err
	}
	d.loadRecency()
	entries, err := os.ReadDir(layers)
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, err := block.ParseDigest("sha256:" + e.Name())
		if err != nil { // what a removal has left behind
			if err := os.RemoveAll(filepath.Join(layers, e.Name())); err != nil {
				return err
			}
			continue
		}
		if err := d.loadLayer(id, clean); err != nil {
			return err
		}
		if l := d.layers[id]; l != nil && proven[id] {
			l.proven = l.trusted.clone()
		}
	}
	d.kept = recency{}
	return nil
}

func (d *Disk) checkVersion() error {
	path := filepath.Join(d.cfg.Dir, "version")
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return statefile.WriteDurable(path, []byte(versionText))
	case err != nil:
		return err
	case string(text) != versionText:
		return fmt.Errorf("it was created by another version (%q, not %q): remove it or choose another directory",
			strings.TrimSpace(string(text)), strings.TrimSpace(versionText))
	}
	return nil
}

// checkPunch tries whether the filesystem can do what eviction needs.
func (d *Disk) checkPunch() error {
	path := filepath.Join(d.cfg.Dir, "probe"+tmpSuffix)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	err = punch(f, 0, block.Size)
	if errors.Is(err, syscall.EOPNOTSUPP) {
		err = fmt.Errorf("its filesystem cannot punch holes, use ext4, xfs, btrfs or tmpfs: %w", err)
	}
	return errors.Join(err, f.Close(), removeFile(path))
}

// loadLayer loads one layer. Damage leaves the layer absent.
func (d *Disk) loadLayer(id block.Digest, clean bool) error {
	dir := d.layerDir(id)
	l, err := readLayer(dir, id)
	if err != nil {
		// A layer that was never committed has no record: nothing to report.
		if !errors.Is(err, fs.ErrNotExist) {
			d.cfg.Logger.Warn("cached layer is damaged and counts as absent", "layer", id.String(), "error", err)
		}
		return os.RemoveAll(dir)
	}
	if err := removeFile(l.recordPath() + tmpSuffix); err != nil {
		return errors.Join(err, l.data.Close())
	}
	var st unix.Stat_t
	if err := withFD(l.data, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return errors.Join(err, l.data.Close())
	}
	// Filesystems that compress allocate less than was written; there this only
	// costs verifying.
	if st.Blocks*512 < l.bytes() {
		clean = false
	}
	if _, err := os.Stat(l.pinPath()); err == nil {
		l.stale = true
	}
	if !clean {
		l.trusted = newBitset(l.count)
	}
	if !clean && !l.stale { // a mount that is still there must not find zeros
		if err := l.punchAbsent(); err != nil {
			return errors.Join(fmt.Errorf("punching holes in %s: %w", l.dataPath(), err), l.data.Close())
		}
	}
	d.recall(l)
	d.bytes.Add(l.bytes())
	d.layers[id] = l
	return nil
}

// readLayer reads the record of a layer and opens its data.
func readLayer(dir string, id block.Digest) (*layer, error) {
	rec, err := readRecord(filepath.Join(dir, "presence"), id)
	if err != nil {
		return nil, err
	}
	data, err := os.OpenFile(filepath.Join(dir, "data"), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening cached layer: %v", err) //nolint:errorlint // a record without data is damage, not absence
	}
	info, err := data.Stat()
	if err == nil && info.Size() != rec.size {
		err = fmt.Errorf("data file has %d bytes, the layer stream %d", info.Size(), rec.size)
	}
	if err != nil {
		return nil, errors.Join(err, data.Close())
	}
	l := newLayer(dir, id, rec.size, data)
	l.present, l.trusted = rec.present, rec.trusted
	l.durable.present, l.durable.trusted = rec.present.clone(), rec.trusted.clone()
	return l, nil
}

// punchAbsent gives back the room of blocks that were written or being evicted
// when the process was stopped.
func (l *layer) punchAbsent() error {
	for _, s := range l.present.spans(l.count, false) {
		if err := punch(l.data, int64(s.first)*block.Size, int64(s.end-s.first)*block.Size); err != nil {
			return err
		}
	}
	return nil
}

// create returns the layer, which it makes if the cache knows nothing of it yet.
func (d *Disk) create(ctx context.Context, id block.Digest) (*layer, error) {
	if l := d.lookup(id); l != nil {
		return l, nil
	}
	size, ok := d.cfg.Layout.StreamSize(id)
	if !ok {
		return nil, fmt.Errorf("length of layer stream %s: %w", id.Short(), block.ErrNotFound)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err := d.reserveLayer(); err != nil {
		return nil, err
	}
	// Making the first file of a layer under the lock is rare and keeps removal and
	// creation of the same directory apart.
	d.mu.Lock()
	defer d.mu.Unlock()
	if l := d.layers[id]; l != nil {
		return l, nil
	}
	if d.closed {
		return nil, errClosed
	}
	dir := d.layerDir(id)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, err
	}
	data, err := os.OpenFile(filepath.Join(dir, "data"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(data.Truncate(size), syncDir(filepath.Dir(dir))); err != nil {
		return nil, errors.Join(err, data.Close())
	}
	l := newLayer(dir, id, size, data)
	l.pinned = pinnedOf(d.sets, l)
	if len(l.used) > 0 {
		d.touch(l, 0) // it is about to be used
	}
	d.layers[id] = l
	return l, nil
}

// Remove takes a layer out of the cache and deletes its files. It is an error if
// the layer is pinned as a whole. Removing a layer that the cache does not know is
// none.
func (d *Disk) Remove(id block.Digest) error {
	l := d.lookup(id)
	if l == nil {
		return nil
	}
	l.recordMu.Lock() // nothing is to be written to the directory any more
	defer l.recordMu.Unlock()
	trash, err := d.detach(l)
	if err == nil {
		err = errors.Join(l.data.Close(), os.RemoveAll(trash))
	}
	if err != nil {
		return fmt.Errorf("removing cached layer %s: %w", id.Short(), err)
	}
	return nil
}

// detach takes a layer off the books and renames its directory to the path that it
// returns, so that the layer can be cached anew at once.
func (d *Disk) detach(l *layer) (trash string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return "", errRemoved
	}
	if l.pins > 0 || l.stale {
		return "", errors.New("a mount is using it")
	}
	trash = fmt.Sprintf("%s.%d.removed", l.dir, d.tick.Add(1))
	if err := os.Rename(l.dir, trash); err != nil {
		return "", err
	}
	delete(d.layers, l.id)
	d.bytes.Add(-l.bytesLocked())
	l.gone = true
	for _, set := range []*bitset{&l.present, &l.trusted, &l.checked, &l.proven} {
		*set = newBitset(l.count)
	}
	l.cleared.Add(1)
	return trash, nil
}
