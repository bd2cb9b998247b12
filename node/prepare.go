package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// preparation is an image that is got ready before it is mounted.
type preparation struct {
	*lazyfs.Preparation

	image  *Image
	layers []*openLayer
	gone   chan struct{} // closed when the layers have been let go of
}

// prepare begins to get an image ready: to load all of it, or only what its start reads. Its
// indexes have been fetched.
func (n *Node) prepare(ctx context.Context, image *Image, all bool) {
	trace, source := n.startTrace(image.id(image.Indexed()), image, image.streamSizes())
	bundled, rest, loaded := n.bundleOf(ctx, image, trace)
	fill := stream.FillConfig{
		Trace: rest.Blocks(), StartReads: trace.Blocks(), Predicted: source.isGuess(), WaitFor: loaded, OnlyTrace: !all,
	}
	if !all && len(fill.Trace) == 0 {
		return
	}
	if err := n.startPreparing(ctx, image, bundled, fill); err != nil {
		n.log.WarnContext(ctx, "image is not prepared before it is mounted", "image", image.Name, "error", err)
	}
}

func (n *Node) startPreparing(ctx context.Context, image *Image, bundled block.Digest, fill stream.FillConfig) error {
	select {
	case <-n.fs.Ready():
	default:
		return nil
	}
	if n.isPreparing(image) || image.Indexed() == 0 {
		return nil
	}
	ref, err := n.cfg.Registry.ParseReference(image.Name)
	if err != nil {
		return err
	}
	p := &preparation{image: image, gone: make(chan struct{})}
	ready := lazyfs.Image{Name: image.Name, ID: image.id(image.Indexed()), PagesID: bundled}
	for _, layer := range image.Layers[:image.Indexed()] {
		used, err := n.openIndex(ctx, ref.Context(), layer)
		if err != nil {
			return errors.Join(fmt.Errorf("preparing %s: opening index of layer %s: %w", image.Name, layer.Digest.Short(), err),
				n.releasePrepared(ref.Context(), p))
		}
		n.registry.Add(ref.Context(), used.Layer)
		p.layers = append(p.layers, used)
		ready.Layers = append(ready.Layers, used.Layer)
	}
	n.cfg.StartRecorder.RecordPreparation(startOf(image), streamsOf(p.layers))
	if p.Preparation, err = n.fs.Prepare(ctx, ready, fill); err != nil {
		return errors.Join(err, n.releasePrepared(ref.Context(), p))
	}
	n.mu.Lock()
	n.preparing[p] = struct{}{}
	n.mu.Unlock()
	n.preparations.Go(func() {
		defer close(p.gone)
		<-p.Done()
		n.mu.Lock()
		delete(n.preparing, p)
		n.mu.Unlock()
		if err := n.releasePrepared(ref.Context(), p); err != nil {
			n.log.Warn("releasing the layers of an image", "image", image.Name, "error", err)
		}
	})
	return nil
}

func (n *Node) releasePrepared(repo name.Repository, p *preparation) error {
	var errs []error
	for _, used := range p.layers {
		n.registry.Remove(repo, used.Layer)
		errs = append(errs, n.layerIndexes.release(used))
	}
	return errors.Join(errs...)
}

func (n *Node) isPreparing(image *Image) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.preparing {
		if p.image.Digest == image.Digest && p.image.Name == image.Name {
			return true
		}
	}
	return false
}

// stopPreparing ends the preparation of images that keep does not want.
func (n *Node) stopPreparing(keep func(*Image) bool) {
	n.mu.Lock()
	var stopped []*preparation
	for p := range n.preparing {
		if !keep(p.image) {
			p.Stop()
			stopped = append(stopped, p)
		}
	}
	n.mu.Unlock()
	for _, p := range stopped {
		<-p.gone
	}
}
