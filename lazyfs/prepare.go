package lazyfs

import (
	"context"
	"fmt"
	"sync"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// Preparation is what is done for an image before it is mounted.
type Preparation struct {
	id     block.Digest
	filler *stream.Filler
	stop   context.CancelFunc
	done   chan struct{}
	whole  bool // set before done is closed: everything has been fetched
}

// Prepare begins to build the metadata of an image and to fetch its blocks, so that a
// mount that follows finds as much of it there as possible. It needs Run to be ready.
// Only one request is in flight at a time, but for what is to be fetched first: what has
// to be done until the mount can be asked for needs the machine as well. The next mount of
// the image that fills joins with the others, unless nothing but the first is fetched. The
// layers must be known to Source and stay open until Done is closed.
func (fs *FS) Prepare(ctx context.Context, image Image, cfg stream.FillConfig) (*Preparation, error) {
	if err := fs.wait(ctx); err != nil {
		return nil, fmt.Errorf("preparing %s: %w", image.Name, err)
	}
	var layers []*stream.Layer
	var keys []layerKey
	for _, l := range image.Layers {
		key := layerKey{l.StreamID(), image.PagesID}
		keys = append(keys, key)
		layers = append(layers, fs.acquire(key, l.StreamSize()))
	}
	stopped, stop := context.WithCancel(context.WithoutCancel(ctx))
	p := &Preparation{id: image.ID, filler: fs.reader.NewFiller(layers, cfg), stop: stop, done: make(chan struct{})}
	finish := func() {
		stop()
		for i, l := range layers {
			fs.release(keys[i], l)
		}
		fs.mu.Lock()
		if fs.prepared[p.id] == p {
			delete(fs.prepared, p.id)
		}
		fs.mu.Unlock()
		close(p.done)
	}
	if !cfg.OnlyTrace {
		fs.mu.Lock()
		fs.prepared[p.id] = p
		fs.mu.Unlock()
	}
	err := fs.start(func(ctx context.Context) {
		defer finish()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(stopped, cancel)()
		var building sync.WaitGroup
		defer building.Wait()
		building.Go(func() { fs.buildAhead(ctx, image) })
		p.whole = p.filler.Prefetch(ctx) == nil && p.filler.RunWorker(ctx) == nil
	})
	if err != nil {
		finish()
		return nil, fmt.Errorf("preparing %s: %w", image.Name, err)
	}
	return p, nil
}

// buildAhead builds the metadata of an image, if the backend needs it.
func (fs *FS) buildAhead(ctx context.Context, image Image) {
	if fs.Backend() == Tree {
		return
	}
	// A mount that cannot do without says what is wrong.
	if _, err := fs.metadata(image); err != nil {
		fs.cfg.Logger.DebugContext(ctx, "metadata was not built ahead of the mount", "image", image.Name, "error", err)
	}
}

// Done is closed when nothing is fetched any more, be it that everything is there.
func (p *Preparation) Done() <-chan struct{} { return p.done }

// Stop ends the work, without waiting for Done.
func (p *Preparation) Stop() { p.stop() }

// takePrepared returns what is being fetched of an image, for a mount to go on with; nil
// if there is nothing.
func (fs *FS) takePrepared(id block.Digest) *Preparation {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	p := fs.prepared[id]
	delete(fs.prepared, id)
	return p
}

// await waits until everything has been fetched or ctx ends, and reports whether it has.
func (p *Preparation) await(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		p.stop()
		<-p.done
	case <-p.done:
	}
	return p.whole
}
