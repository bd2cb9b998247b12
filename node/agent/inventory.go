package agent

import (
	"context"
	"errors"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
)

// Held says what the machine has of images.
type Held struct {
	node.Held

	Images []HeldImage
	// Starts are the newest starts of containers that are over, the oldest first.
	Starts []HeldStart
}

// HeldStart is how long a container waited for its image.
type HeldStart struct {
	Manifest block.Digest
	// Waited is the time from the first question for the image until it was mounted, or
	// that of mounting alone if it was pulled long before; and after that the time that
	// reads waited for blocks, up to Finished.
	Waited   time.Duration
	Finished time.Time
}

// longBefore is how long before a mount the pull of an image may have begun to be part of the
// start of the container that it is mounted for.
const longBefore = time.Minute

// HeldImage is an image that is loaded lazily. Sizes are in bytes.
type HeldImage struct {
	Manifest block.Digest
	// StartMissing is what a start still has to load, Estimated that this is a guess.
	StartMissing int64
	Estimated    bool
	Cached       int64
}

// Inventory tells again and again what an agent has. It keeps what it has read of images,
// so that asking often costs little. It is not safe for concurrent use.
type Inventory struct {
	agent *Agent
	read  map[string]*node.Image
}

// Inventory returns one that has read nothing yet.
func (a *Agent) Inventory() *Inventory { return &Inventory{agent: a} }

// Held tells what the agent has now.
func (i *Inventory) Held(ctx context.Context) (Held, error) {
	ids, err := i.agent.snapshots.Images(ctx)
	if err != nil {
		return Held{}, err
	}
	read := make(map[string]*node.Image, len(ids))
	// Images of the same manifest under several names are one.
	seen := make(map[block.Digest]bool, len(ids))
	held := Held{Held: i.agent.node.Held()}
	for _, id := range ids {
		opened, ok := i.read[id]
		if !ok {
			opened, _, err = images{node: i.agent.node}.open(id)
			if errors.Is(err, block.ErrNotFound) {
				continue // removed meanwhile
			}
			if err != nil {
				return Held{}, err
			}
		}
		read[id] = opened
		if seen[opened.Digest] {
			continue
		}
		seen[opened.Digest] = true
		if _, found := i.agent.node.FalseIndex(opened, len(opened.Layers)); found {
			continue // no pod can start with it here
		}
		status := i.agent.node.ImageStatus(opened)
		image := HeldImage{Manifest: opened.Digest, Cached: status.CachedBytes}
		image.StartMissing, image.Estimated = status.StartEstimate()
		held.Images = append(held.Images, image)
	}
	i.read = read
	held.Starts = heldStarts(i.agent.node.Starts(), i.agent.snapshots.Pulls())
	return held, nil
}

// heldStarts puts together starts, the oldest first, and the pulls that some of them began
// with: the first start after a pull does.
func heldStarts(starts []node.Start, pulls []snapshotter.PullStatus) []HeldStart {
	asked := make(map[[2]string]time.Time, len(pulls))
	for _, pull := range pulls {
		asked[[2]string{pull.Image, pull.Manifest}] = pull.Started
	}
	held := make([]HeldStart, len(starts))
	for i, start := range starts {
		waited := start.Mounting
		key := [2]string{start.Image, start.Manifest.String()}
		if pull, ok := asked[key]; ok && pull.Before(start.Began) {
			if start.Began.Sub(pull) < longBefore {
				waited += start.Began.Sub(pull)
			}
			delete(asked, key)
		}
		held[i] = HeldStart{Manifest: start.Manifest, Waited: waited + start.Waited, Finished: start.Finished}
	}
	return held
}
