package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/lazyfs/scrub"
)

// ScrubStateFile is the name of the file in a node's directory that keeps what the scrubber
// has found.
const ScrubStateFile = "scrub.json"

// newScrubber makes the scrubber of the disk cache. What it fetches again comes from upstream.
func (n *Node) newScrubber(upstream block.Source) (err error) {
	n.scrubber, err = scrub.New(scrub.Config{
		Disk: n.disk, Source: upstream, Open: n.openStream, DropPages: n.dropPages, Observe: n.observe,
		Path: filepath.Join(n.cfg.Dir, ScrubStateFile), Interval: n.cfg.ScrubInterval,
		Logger: n.cfg.Log, Registerer: n.cfg.Metrics,
	})
	return err
}

// Suspect says why the disk of the cache is not to be relied on, empty if nothing speaks
// against it.
func (n *Node) Suspect() string { return n.scrubber.Suspect() }

// candidate is a layer of an image that may be the one with a given stream ID.
type candidate struct {
	image *Image
	layer ImageLayer
}

// candidates returns the layers with the given stream ID of all known images.
func (n *Node) candidates(ctx context.Context, stream block.Digest) ([]candidate, error) {
	var found []candidate
	add := func(image *Image, layer ImageLayer) {
		known := func(c candidate) bool { return c.image.Name == image.Name && c.layer.Index == layer.Index }
		if !slices.ContainsFunc(found, known) {
			found = append(found, candidate{image, layer})
		}
	}
	inUse := func(image *Image, layers []*openLayer) {
		for i, used := range layers {
			if used.StreamID() == stream {
				add(image, image.Layers[i])
			}
		}
	}
	n.mu.Lock()
	for m := range n.mounts {
		inUse(m.image, m.layers)
	}
	images := n.newlyFetchedLocked()
	n.mu.Unlock()
	if n.cfg.Images != nil {
		listed, err := n.cfg.Images(ctx)
		if err != nil && len(found) == 0 {
			return nil, fmt.Errorf("listing images: %w", err)
		}
		images = append(images, listed...)
	}
	for _, image := range images {
		for _, layer := range image.Layers[:image.Indexed()] {
			if layer.Stream == stream {
				add(image, layer)
			}
		}
	}
	return found, nil
}

// openStream makes the digests and the origin of a cached layer known until it is released.
// Nothing is fetched for it.
func (n *Node) openStream(ctx context.Context, stream block.Digest) (scrub.Layer, error) {
	n.keeping.RLock()
	defer n.keeping.RUnlock()
	found, err := n.candidates(ctx, stream)
	if err != nil {
		return scrub.Layer{}, err
	}
	opened := scrub.Layer{}
	var releases []func()
	errs := []error{fmt.Errorf("layer %s: no image has it: %w", stream.Short(), block.ErrNotFound)}
	for _, c := range found {
		release, err := n.openCandidate(c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		releases, opened.Images = append(releases, release), append(opened.Images, c.image.Name)
	}
	if len(releases) == 0 {
		return opened, errors.Join(errs...)
	}
	opened.Release = func() {
		for _, release := range releases {
			release()
		}
	}
	return opened, nil
}

func (n *Node) openCandidate(c candidate) (release func(), err error) {
	ref, err := n.cfg.Registry.ParseReference(c.image.Name)
	if err != nil {
		return nil, err
	}
	used, ok := n.layerIndexes.join(c.layer)
	if !ok {
		if used, err = n.reopenLayer(c.layer); err != nil {
			return nil, err
		}
	}
	n.layerIndexes.lend(used, true)
	n.registry.Add(ref.Context(), used.Layer)
	return func() {
		n.registry.Remove(ref.Context(), used.Layer)
		n.layerIndexes.lend(used, false)
		if err := n.layerIndexes.release(used); err != nil {
			n.log.Warn("releasing a layer", "image", c.image.Name, "error", err)
		}
	}, nil
}

// Actions of a [ScrubRequest].
const (
	ScrubStart  = "start"
	ScrubPause  = "pause"
	ScrubResume = "resume"
	ScrubTrust  = "trust"
)

// ScrubRequest is a request to the scrubber.
type ScrubRequest struct {
	Action string `json:"action"`
}

// Scrub sends an action to the scrubber of the node.
func (c Client) Scrub(ctx context.Context, action string) error {
	return c.ask(ctx, http.MethodPost, "/scrub", ScrubRequest{Action: action}, nil)
}

func (n *Node) serveScrub(mux *http.ServeMux) {
	mux.HandleFunc("POST /scrub", func(w http.ResponseWriter, r *http.Request) {
		var req ScrubRequest
		if decode(w, r, &req) {
			n.answer(w, struct{}{}, n.Scrub(req.Action))
		}
	})
}

// Scrub does what a [ScrubRequest] asks for.
func (n *Node) Scrub(action string) error {
	switch action {
	case ScrubStart:
		return n.scrubber.Start()
	case ScrubPause:
		return n.scrubber.Pause()
	case ScrubResume:
		return n.scrubber.Resume()
	case ScrubTrust:
		return n.scrubber.Trust()
	default:
		return fmt.Errorf("scrub action %q is not one of %s, %s, %s and %s", action, ScrubStart, ScrubPause, ScrubResume, ScrubTrust)
	}
}

// lendTime is how long a layer that only peers ask for stays open.
const lendTime = 10 * time.Second

// lentDisk is the disk cache as peers see it: also blocks of layers that no mount uses are
// hashed before they are sent, for which their digests must be known.
type lentDisk struct {
	node *Node
	mu   sync.Mutex
	open map[block.Digest]struct{}
}

// Has implements [block.Holder].
func (d *lentDisk) Has(k block.Key) bool { return d.node.disk.Has(k) }

// Fetch implements [block.Source].
func (d *lentDisk) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if _, known := d.node.disk.LayerUsage(req.Layer); known && d.node.layerIndexes.layer(req.Layer) == nil {
		d.lend(ctx, req.Layer)
	}
	return d.node.disk.Fetch(ctx, req, sink)
}

// lend opens a layer for a while. Without it the blocks count as not there.
func (d *lentDisk) lend(ctx context.Context, layer block.Digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.open[layer]; ok {
		return
	}
	opened, err := d.node.openStream(ctx, layer)
	if err != nil {
		d.node.log.DebugContext(ctx, "layer cannot be served to peers", "layer", layer.String(), "error", err)
		return
	}
	d.open[layer] = struct{}{}
	time.AfterFunc(lendTime, func() {
		d.mu.Lock()
		delete(d.open, layer)
		d.mu.Unlock()
		opened.Release()
	})
}

var _ block.Holder = (*lentDisk)(nil)

// onCorrupt and onComplete hand to the scrubber what the disk cache reports.
func (n *Node) onCorrupt(c cache.CorruptBlock) { n.scrubber.Report(c) }
func (n *Node) onComplete(layer block.Digest)  { n.scrubber.Complete(layer) }
