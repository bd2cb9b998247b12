package lazyfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// fuseType is how the list of mounts names our FUSE filesystems.
const fuseType = "fuse.brisk"

// Mount is a mounted image. It is safe for concurrent use.
type Mount struct {
	fs      *FS
	name    string
	id      block.Digest
	target  string
	backend Backend
	note    json.RawMessage
	filler  *stream.Filler
	filled  chan struct{} // closed when the fill has come to its end

	// These are set while mounting, then read only.
	layers  []mountedLayer
	root    string         // where the read-only root is mounted
	session string         // the connection that the mount needs; empty if it needs none
	server  *fusefs.Server // of a tree, else nil

	inherited bool // from a process before, without a caller in this one; guarded by FS.mu

	mu   sync.Mutex // held while unmounting; guards undo
	undo undo
}

// mountedLayer is one layer of a mount.
type mountedLayer struct {
	stream *stream.Layer
	key    layerKey
	plain  string // the file of the cache if it is used directly, else empty
	cold   bool   // see Mount.Cold
}

// undo is a stack of what has to be undone, the last thing first.
type undo struct {
	steps []func(ctx context.Context, detach bool) error
}

func (u *undo) push(step func(ctx context.Context, detach bool) error) {
	u.steps = append(u.steps, step)
}

// run undoes everything. It stops at the first step that fails, and may be called
// again to go on from there.
func (u *undo) run(ctx context.Context, detach bool) error {
	for len(u.steps) > 0 {
		last := len(u.steps) - 1
		if err := u.steps[last](ctx, detach); err != nil {
			return err
		}
		u.steps = u.steps[:last]
	}
	return nil
}

// Stats is the progress of a mount.
type Stats struct {
	Backend Backend
	// Direct says that every layer is a plain file of the cache, so that the mount
	// does not depend on this process.
	Direct bool
	// FillBlocks of TotalBlocks have been dealt with by the background fill.
	FillBlocks, TotalBlocks int64
}

// Mount mounts an image on the directory target, an absolute path. It waits for
// [FS.Run] to be ready, and may take a moment to build the metadata of an image
// that has not been mounted before. On an error nothing is left behind.
//
// A mount of the same image on the same target that was taken over from a process
// before this one is returned as it is, to the first that asks for it, unless an
// overlay is wanted.
func (fs *FS) Mount(ctx context.Context, image Image, target string, cfg MountConfig) (*Mount, error) {
	if err := fs.wait(ctx); err != nil {
		return nil, fmt.Errorf("mounting %s: %w", image.Name, err)
	}
	if m := fs.claim(image.ID, target, cfg); m != nil {
		return m, nil
	}
	m := &Mount{
		fs: fs, name: image.Name, id: image.ID, target: target, backend: fs.Backend(), note: cfg.CallerData,
		filled: make(chan struct{}),
	}
	err := m.build(ctx, image, cfg)
	if err == nil && !fs.adopt(m) {
		err = ErrStopped
	}
	if err != nil {
		err = errors.Join(err, m.undo.run(context.WithoutCancel(ctx), true))
		return nil, fmt.Errorf("mounting %s on %s: %w", image.Name, target, err)
	}
	fs.cfg.Logger.InfoContext(ctx, "mounted", "image", image.Name, "target", target,
		"backend", string(m.backend), "layers", len(image.Layers), "direct", m.Stats().Direct)
	return m, nil
}

func (m *Mount) build(ctx context.Context, image Image, cfg MountConfig) error {
	if !filepath.IsAbs(m.target) {
		return errors.New("the target is not an absolute path")
	}
	if image.ID.IsZero() {
		return errors.New("the image has no ID")
	}
	if len(cfg.CallerData) > MaxCallerData {
		return fmt.Errorf("the note has %d bytes, more than %d", len(cfg.CallerData), MaxCallerData)
	}
	m.openLayers(image)
	lower := m.target
	if cfg.Overlay != nil {
		dir, err := m.mountPoint()
		if err != nil {
			return err
		}
		lower = dir
	}
	if err := m.mountRoot(ctx, image, lower, cfg); err != nil {
		return err
	}
	if cfg.Overlay != nil {
		err := kernel.MountOverlay(kernel.Overlay{Lower: lower, Upper: cfg.Overlay.Upper, Work: cfg.Overlay.Work}, m.target)
		if err != nil {
			return err
		}
		m.undoMount(m.target)
	}
	return m.startFill(ctx, cfg.NoFill, cfg.Fill, m.fs.start)
}

// record notes what another process has to know to go on with the mount.
func (m *Mount) record(root string, image Image, cfg MountConfig) error {
	r := &mountRecord{
		envelope: m.fs.records.envelope(), Name: m.name, ID: m.id, Backend: m.backend, Target: m.target, Root: root,
		Merge:   erofs.MergeVersion,
		Session: m.session, NoFill: cfg.NoFill, Fill: cfg.Fill, CallerData: m.note, PagesID: image.PagesID,
	}
	for _, l := range m.layers {
		r.Layers = append(r.Layers, layerRecord{Stream: l.stream.ID(), Size: l.stream.Size(), Plain: l.plain})
	}
	name := uniqueName("") + mountSuffix
	m.undoRecord(name)
	return m.fs.records.save(name, r)
}

func (m *Mount) undoRecord(name string) {
	m.undo.push(func(context.Context, bool) error { return m.fs.records.remove(name) })
}

// openLayers opens the streams of the layers and pins those that are complete, if
// they can be used directly.
func (m *Mount) openLayers(image Image) {
	pinner, pins := m.fs.cfg.Local.(Pinner)
	for _, l := range image.Layers {
		key := layerKey{l.StreamID(), image.PagesID}
		opened := mountedLayer{key: key, stream: m.openStream(key, l.StreamSize())}
		// A file that ends within a block of the metadata would give a short read.
		if pins && m.backend != Tree && l.StreamSize() > 0 && l.StreamSize()%metadataBlock == 0 {
			if path, unpin, err := pinner.Pin(l.StreamID()); err == nil {
				opened.plain = path
				m.undo.push(func(context.Context, bool) error {
					unpin()
					return nil
				})
			}
		}
		m.layers = append(m.layers, opened)
	}
}

// openStream opens the stream of a layer.
func (m *Mount) openStream(key layerKey, size int64) *stream.Layer {
	opened := m.fs.acquire(key, size)
	m.undo.push(func(context.Context, bool) error {
		m.fs.release(key, opened)
		return nil
	})
	return opened
}

// mountPoint makes a directory to mount the root below an overlay on.
func (m *Mount) mountPoint() (string, error) {
	m.fs.mu.Lock()
	m.fs.numbers++
	dir := filepath.Join(m.fs.cfg.StateDir, "mnt", strconv.FormatUint(m.fs.numbers, 10))
	m.fs.mu.Unlock()
	if err := os.Mkdir(dir, stateMode); err != nil {
		return "", fmt.Errorf("making a mount point: %w", err)
	}
	m.undoMountPoint(dir)
	return dir, nil
}

func (m *Mount) undoMountPoint(dir string) {
	m.undo.push(func(context.Context, bool) error {
		if err := os.Remove(dir); err != nil {
			return fmt.Errorf("removing a mount point: %w", err)
		}
		return nil
	})
}

func (m *Mount) undoMount(dir string) {
	m.undo.push(func(ctx context.Context, detach bool) error { return kernel.Unmount(ctx, dir, detach) })
}

// startFill starts the background fill of the layers that are not plain files, or goes on
// with the one of [FS.Prepare]: it hands it to start.
func (m *Mount) startFill(ctx context.Context, none bool, cfg stream.FillConfig, start func(func(context.Context)) error) error {
	var layers []*stream.Layer
	for _, l := range m.layers {
		if l.plain == "" {
			layers = append(layers, l.stream)
		}
	}
	var prepared *Preparation
	if !none {
		prepared = m.fs.takePrepared(m.id)
	}
	cfg.OnlyTrace = cfg.OnlyTrace || none
	run := func(ctx context.Context) bool { return m.filler.Run(ctx) == nil && !cfg.OnlyTrace }
	if prepared != nil {
		m.filler = prepared.filler
		run = func(ctx context.Context) bool {
			err := m.filler.Run(ctx)
			return prepared.await(ctx) && err == nil
		}
	} else {
		m.filler = m.fs.reader.NewFiller(layers, cfg)
	}
	if none && len(cfg.Trace) == 0 {
		close(m.filled)
		return nil
	}
	stopped, stop := context.WithCancel(context.WithoutCancel(ctx))
	if err := start(func(ctx context.Context) { m.fill(ctx, stopped, run) }); err != nil {
		stop()
		if prepared != nil {
			prepared.Stop()
		}
		return err
	}
	m.undo.push(func(context.Context, bool) error {
		stop()
		<-m.filled
		return nil
	})
	return nil
}

// fill fetches what is missing until it is done or either context ends.
func (m *Mount) fill(ctx, stopped context.Context, run func(context.Context) bool) {
	defer close(m.filled)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(stopped, cancel)()
	if run(ctx) {
		m.fs.cfg.Logger.InfoContext(ctx, "image is complete", "image", m.name, "target", m.target)
	}
}

// Name returns what logs call the image.
func (m *Mount) Name() string { return m.name }

// ID returns the name of the chain of layer indexes.
func (m *Mount) ID() block.Digest { return m.id }

// CallerData returns the note of the [MountConfig] that the mount was made with.
func (m *Mount) CallerData() json.RawMessage { return m.note }

// Target returns where the image is mounted.
func (m *Mount) Target() string { return m.target }

// Filled is closed when the background fill has ended: everything has been fetched,
// or the mount is being undone.
func (m *Mount) Filled() <-chan struct{} { return m.filled }

// Root returns where the read-only root of the image is mounted: on the target, or below
// the overlay there.
func (m *Mount) Root() string { return m.root }

// Stats returns how far the mount is.
func (m *Mount) Stats() Stats {
	s := Stats{Backend: m.backend, Direct: m.direct()}
	s.FillBlocks, s.TotalBlocks = m.filler.Blocks()
	return s
}

func (m *Mount) direct() bool {
	for _, l := range m.layers {
		if l.plain == "" {
			return false
		}
	}
	return m.backend != Tree
}

// ColdLayers returns the stream IDs of the layers that were not in the page cache when the image was
// mounted, so that this process sees all their reads. Programs may read other layers from the page
// cache: no visible read does not mean that nobody reads them.
func (m *Mount) ColdLayers() []block.Digest {
	var ids []block.Digest
	for _, l := range m.layers {
		if l.cold {
			ids = append(ids, l.stream.ID())
		}
	}
	return ids
}

// Unmount ends the fill and unmounts the image, waiting until nobody uses it or ctx
// ends. It may be called again after an error, and once more after success.
func (m *Mount) Unmount(ctx context.Context) error { return m.unmount(ctx, false) }

// Detach takes the image out of the tree even if programs use it. They keep what the
// kernel has cached; other reads of theirs fail.
func (m *Mount) Detach(ctx context.Context) error { return m.unmount(ctx, true) }

func (m *Mount) unmount(ctx context.Context, detach bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.undo.run(ctx, detach); err != nil {
		return fmt.Errorf("unmounting %s: %w", m.name, err)
	}
	m.fs.mu.Lock()
	delete(m.fs.mounts, m)
	m.fs.mu.Unlock()
	return nil
}

// ImageID names a chain of layers by the digests of their indexes, the bottom one
// first. The chainID of the layers would not do: an index can claim the diffID of a
// layer that it does not describe, and the metadata made of it would then be mounted
// for others.
func ImageID(indexes []block.Digest) block.Digest {
	var chain []byte
	for _, digest := range indexes {
		chain = append(chain, digest[:]...)
	}
	return block.Sum(chain)
}
