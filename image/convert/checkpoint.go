package convert

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// defaultCheckpoint is when the first checkpoint is made: most conversions end before.
	defaultCheckpoint = 10 * time.Second
	// lastCheckpoint bounds the checkpoint of a conversion that is being cancelled.
	lastCheckpoint = 5 * time.Second
)

// checkpoints records in the registry which layers are finished, for the next conversion if this one does
// not end. Registries may not let anybody delete a manifest, so the time between two checkpoints doubles:
// a long conversion makes few, and loses half of its time at most.
type checkpoints struct {
	mu       sync.Mutex
	wait     time.Duration // until the next one; none below 0
	next     time.Time
	finished []*work
	recorded int // of finished
}

func newCheckpoints(wait time.Duration) *checkpoints {
	if wait == 0 {
		wait = defaultCheckpoint
	}
	return &checkpoints{wait: wait, next: time.Now().Add(wait)}
}

// finish notes a finished layer, and makes a checkpoint if it is time for it.
func (c *conversion) finish(ctx context.Context, w *work) {
	p := c.checkpoints
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished = append(p.finished, w)
	if p.wait < 0 || len(p.finished) == len(c.works) || time.Now().Before(p.next) {
		return
	}
	p.wait *= 2
	p.next = time.Now().Add(p.wait)
	c.recordLocked(ctx)
}

// interrupted makes a last checkpoint if the conversion was cancelled.
func (c *conversion) interrupted(ctx context.Context) {
	p := c.checkpoints
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wait < 0 || context.Cause(ctx) == nil || p.recorded == len(p.finished) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastCheckpoint)
	defer cancel()
	c.recordLocked(ctx)
}

// recordLocked makes a checkpoint. A registry that does not take one is no reason to fail, nor to try again.
func (c *conversion) recordLocked(ctx context.Context) {
	p := c.checkpoints
	i := c.checkpointed()
	if i < 0 {
		return
	}
	made := &registry.Checkpoint{}
	for _, w := range p.finished {
		made.Indexes = append(made.Indexes, w.index)
		if w.target.Digest != w.layer.Digest {
			made.Layers = append(made.Layers, w.target)
		}
	}
	if err := c.client.PushCheckpoint(ctx, c.images[i], made); err != nil {
		c.cfg.Logger.InfoContext(ctx, "recording what is finished", "error", err)
		p.wait = -1
		return
	}
	p.recorded = len(p.finished)
}

// checkpointed returns the number of the image that checkpoints belong to: the first to convert.
func (c *conversion) checkpointed() int {
	return slices.Index(c.skipped, "")
}

// lookUpCheckpoints finds the layers that an unfinished conversion has made. It is no error if there is no
// way to know.
func (c *conversion) lookUpCheckpoints(ctx context.Context) error {
	i := c.checkpointed()
	if i < 0 {
		return nil
	}
	image := c.images[i]
	found, err := c.client.Checkpoints(ctx, image)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		c.cfg.Logger.InfoContext(ctx, "looking for what an unfinished conversion has made", "error", err)
		return nil
	}
	for _, checkpoint := range found {
		if c.compressor == nil {
			c.learn(image.Name.Context(), checkpoint.Indexes)
			continue
		}
		c.learnLayers(image.Name.Context(), checkpoint.Layers, checkpoint.Indexes)
	}
	return nil
}

// learnLayers notes layers in full mode that the images to convert have, with their indexes.
func (c *conversion) learnLayers(repo name.Repository, layers []registry.Layer, indexes []registry.IndexBlob) {
	byDiffID := make(map[block.Digest]found, len(layers))
	for _, layer := range layers {
		for _, b := range indexes {
			if b.Layer == layer.Digest && b.DiffID == layer.DiffID {
				byDiffID[layer.DiffID] = found{index: b, layer: layer, repo: repo}
			}
		}
	}
	for _, w := range c.works {
		f, ok := byDiffID[w.layer.DiffID]
		if _, known := c.reusable[w.layer.Digest]; ok && !known {
			c.reusable[w.layer.Digest] = f
		}
	}
}
