package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/bundle"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/pages"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// tableGrace is how long a mount waits for the table of a bundle that is on its way: it was
// asked for together with the indexes.
const tableGrace = 300 * time.Millisecond

// ImageBundle is a bundle that was found in the registry with the index of an image.
type ImageBundle struct {
	Digest    block.Digest `json:"digest"`
	Size      int64        `json:"size"`  // in bytes
	Table     block.Digest `json:"table"` // digest of its table
	TableSize int64        `json:"tableSize"`
}

// bundles has the bundles of images: their pages beside the disk cache, their tables among the
// objects.
type bundles struct {
	store   *pages.Store
	metrics bundleMetrics
	fetched atomic.Int64 // bytes as they are stored

	mu     sync.Mutex // guards what follows
	loads  map[block.Digest]*bundleLoad
	closed bool
}

// bundleLoad is a bundle that is being loaded.
type bundleLoad struct {
	cancel context.CancelFunc
	opened chan struct{} // closed once it is known what the bundle has, or that nothing will be
	done   chan struct{}
}

func (n *Node) openBundles() (err error) {
	n.bundles.loads = make(map[block.Digest]*bundleLoad)
	n.bundles.metrics = newBundleMetrics(n.cfg.Metrics)
	n.bundles.store, err = pages.OpenStore(pages.Config{
		Dir: filepath.Join(n.cfg.Dir, "bundles"), Space: n.disk, Spared: n.cfg.CacheBytes / pinnedShare, Logger: n.log, Registerer: n.cfg.Metrics,
	})
	return err
}

// shed gives up bundles for the sake of blocks.
func (b *bundles) shed(bytes int64, idle time.Duration) int64 {
	if b.store == nil {
		return 0
	}
	return b.store.Evict(bytes, idle)
}

// pages returns those of an image, for its mounts.
func (n *Node) pages(id block.Digest) stream.Pages {
	if set := n.bundleSet(id); set != nil {
		return countedPages{set, n}
	}
	return nil
}

// bundleSet returns the pages of a bundle, nil if there are none.
func (n *Node) bundleSet(id block.Digest) *pages.Set {
	if set := n.bundles.store.Get(id); set != nil || !n.bundles.store.Has(id) {
		return set
	}
	// They are from a process before this one. So is the table.
	encoded, err := n.objects.Get(id, bundle.MaxTable)
	if err != nil {
		return nil
	}
	table, err := bundle.ParseTable(encoded)
	if err != nil {
		return nil
	}
	set, err := n.bundles.store.Open(id, layoutOf(table), false)
	if err != nil {
		return nil
	}
	return set
}

// imageBundle returns the bundle that was found for an image, nil if there is none that can be
// used.
func imageBundle(found *registry.Artifact) *ImageBundle {
	if found.Startup == nil || found.Startup.Bundle == nil {
		return nil
	}
	b := found.Startup.Bundle
	table, size, err := bundle.ParseAnnotations(b.Annotations)
	if err != nil {
		return nil
	}
	return &ImageBundle{Digest: b.Digest, Size: b.Size, Table: table, TableSize: size}
}

// startBundle begins to load the bundle of an image, unless it is there or on its way. It goes
// on when ctx ends. That it fails does not matter to a mount: then blocks are loaded, once indexed
// says whether the indexes of the image are there. Until then nothing but the name is read of it.
func (n *Node) startBundle(ctx context.Context, repo name.Repository, image *Image, indexed <-chan bool) {
	b := image.Bundle
	if b == nil {
		return
	}
	n.bundles.mu.Lock()
	defer n.bundles.mu.Unlock()
	if n.bundles.closed || n.bundles.loads[b.Table] != nil || n.bundles.store.Rejected(b.Table) {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	load := &bundleLoad{cancel: cancel, opened: make(chan struct{}), done: make(chan struct{})}
	n.bundles.loads[b.Table] = load
	n.preparations.Go(func() {
		defer cancel()
		began := time.Now()
		opened := sync.OnceFunc(func() { close(load.opened) })
		loaded, err := n.loadBundle(ctx, repo, b, opened)
		opened()
		n.bundles.mu.Lock()
		delete(n.bundles.loads, b.Table)
		n.bundles.mu.Unlock()
		close(load.done)
		n.bundles.metrics.loaded(ctx, loaded, err)
		switch {
		case err == nil && loaded > 0:
			n.log.InfoContext(ctx, "bundle of an image is loaded", "image", image.Name, "bytes", loaded, "seconds", time.Since(began).Seconds())
		case err != nil && ctx.Err() == nil:
			n.log.WarnContext(ctx, "bundle of an image cannot be had; blocks are loaded instead", "image", image.Name, "error", err)
			if <-indexed {
				n.keeping.RLock()
				n.prepare(ctx, image, false)
				n.keeping.RUnlock()
			}
		}
	})
}

// loadBundle loads the frames of a bundle that are missing, and returns the bytes it has read.
func (n *Node) loadBundle(ctx context.Context, repo name.Repository, b *ImageBundle, opened func()) (loaded int64, err error) {
	if set := n.bundleSet(b.Table); set != nil {
		opened()
		if len(set.Missing()) == 0 {
			return 0, nil
		}
	}
	blob, err := n.cfg.Registry.OpenRanges(ctx, repo, b.Digest, b.Size, registry.RangesConfig{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	arriving := countedReader{blob, &n.bundles}
	table, encoded, err := bundle.ReadTable(arriving, b.TableSize, b.Table)
	if err != nil {
		return 0, err
	}
	if err := n.objects.Put(b.Table, encoded); err != nil {
		return 0, err
	}
	set, err := n.bundles.store.Open(b.Table, layoutOf(table), true)
	if err != nil {
		return 0, err
	}
	defer set.BeginDownload()()
	opened()
	return b.TableSize + table.Stored(), n.fillSet(ctx, table, set, func(each func(int, []byte) error) error {
		return table.ReadFrames(arriving, 0, each)
	})
}

// fillSet decodes frames while read brings them, verifies them and puts those that are missing
// into the set.
func (n *Node) fillSet(ctx context.Context, table *bundle.Table, set *pages.Set, read func(each func(i int, stored []byte) error) error) error {
	workers := runtime.GOMAXPROCS(0)
	decoder, err := bundle.NewDecoder(workers)
	if err != nil {
		return err
	}
	defer decoder.Close()
	missing := make(map[int]bool)
	for _, i := range set.Missing() {
		missing[i] = true
	}
	buffers := sync.Pool{New: func() any { return new(make([]byte, 0, table.FrameSize)) }}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	err = read(func(i int, stored []byte) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !missing[i] {
			return nil
		}
		group.Go(func() error {
			buf, ok := buffers.Get().(*[]byte)
			if !ok {
				return errors.New("a buffer is of another type")
			}
			defer buffers.Put(buf)
			defer n.fs.TakeTurn(ctx)()
			content, err := decoder.Decode(table, i, stored, *buf)
			if err != nil {
				return err
			}
			return set.Put(i, content)
		})
		return nil
	})
	return errors.Join(group.Wait(), err)
}

func layoutOf(t *bundle.Table) pages.Layout {
	l := pages.Layout{FrameSize: t.FrameSize}
	for _, s := range t.Spans {
		l.Spans = append(l.Spans, pages.Span(s))
	}
	for _, f := range t.Frames {
		l.Frames = append(l.Frames, pages.Frame(f))
	}
	return l
}

// bundleOf returns the bundle of an image for a mount: its ID and what it has or will have of
// trace. If it is on its way, its table is waited for, but not long. The rest of the trace is
// what has to be loaded as blocks, and loaded is closed when the bundle has been.
func (n *Node) bundleOf(ctx context.Context, image *Image, trace startup.Trace) (id block.Digest, rest startup.Trace, loaded <-chan struct{}) {
	if image.Bundle == nil {
		return id, trace, nil
	}
	n.bundles.mu.Lock()
	load := n.bundles.loads[image.Bundle.Table]
	n.bundles.mu.Unlock()
	if load != nil {
		loaded = load.done
		timer := time.NewTimer(tableGrace)
		select {
		case <-load.opened:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	held := n.bundleSet(image.Bundle.Table)
	if held == nil {
		return id, trace, loaded
	}
	for _, s := range trace {
		for s.Length > 0 {
			length, state := held.Locate(s.Layer, s.Offset, s.Length)
			if state == stream.PagesAbsent {
				rest = append(rest, startup.Span{Layer: s.Layer, Offset: s.Offset, Length: length})
			}
			s.Offset, s.Length = s.Offset+length, s.Length-length
		}
	}
	return image.Bundle.Table, rest, loaded
}

// stopBundles ends the loading of bundles that keep does not want.
func (n *Node) stopBundles(keep func(table block.Digest) bool) {
	n.bundles.mu.Lock()
	defer n.bundles.mu.Unlock()
	for table, load := range n.bundles.loads {
		if !keep(table) {
			load.cancel()
		}
	}
}

// closeBundles ends the loading of all bundles, for good.
func (n *Node) closeBundles() {
	n.bundles.mu.Lock()
	n.bundles.closed = true
	n.bundles.mu.Unlock()
	n.stopBundles(func(block.Digest) bool { return false })
}

// tidyBundles drops the bundles that blocks have replaced.
func (n *Node) tidyBundles(ctx context.Context) {
	if err := n.bundles.store.Maintain(n.disk); err != nil {
		n.log.WarnContext(ctx, "bundles are not tidied", "error", err)
	}
}

// retainBundles drops the pages of images that keep does not want.
func (n *Node) retainBundles(keep func(table block.Digest) bool) error {
	n.stopBundles(keep)
	if err := n.bundles.store.Retain(keep); err != nil {
		return fmt.Errorf("dropping bundles: %w", err)
	}
	return nil
}
