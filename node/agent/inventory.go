package agent

import (
	"context"
	"errors"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
)

// Inventory is the inventory of the node with its images and recent starts.
type Inventory struct {
	node.Inventory

	Images []ImageInventory
	// Starts are the most recent starts of containers that have finished, the oldest first.
	Starts []ContainerStart
}

// ContainerStart is how long a container waited for its image.
type ContainerStart struct {
	Manifest block.Digest
	// Waited is the time from the first request of the pull until the image was mounted (the
	// mount time alone if it was pulled long before), plus the time that reads waited for
	// blocks until Finished.
	Waited   time.Duration
	Finished time.Time
}

// maxPullAge is how long before the mount a pull may have begun to count as part of the start
// of the container.
const maxPullAge = time.Minute

// ImageInventory is the state of a lazy image. Sizes are in bytes.
type ImageInventory struct {
	Manifest block.Digest
	// StartMissing is how much a start still has to load; Estimated marks it as an estimate.
	StartMissing int64
	Estimated    bool
	Cached       int64
}

// InventoryReader reads the inventory of an agent repeatedly. It caches opened images, so that
// frequent reads are cheap. It is not safe for concurrent use.
type InventoryReader struct {
	agent *Agent
	read  map[string]*node.Image
}

// InventoryReader returns a new reader with an empty cache.
func (a *Agent) InventoryReader() *InventoryReader { return &InventoryReader{agent: a} }

// Read returns the current inventory.
func (i *InventoryReader) Read(ctx context.Context) (Inventory, error) {
	ids, err := i.agent.snapshots.Images(ctx)
	if err != nil {
		return Inventory{}, err
	}
	read := make(map[string]*node.Image, len(ids))
	// Images of the same manifest under several names are one.
	seen := make(map[block.Digest]bool, len(ids))
	inventory := Inventory{Inventory: i.agent.node.Inventory()}
	for _, id := range ids {
		opened, ok := i.read[id]
		if !ok {
			opened, _, err = images{node: i.agent.node}.open(id)
			if errors.Is(err, block.ErrNotFound) {
				continue // removed meanwhile
			}
			if err != nil {
				return Inventory{}, err
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
		if i.agent.node.CheckTrust(opened) != nil {
			continue // the same
		}
		status := i.agent.node.ImageStatus(opened)
		image := ImageInventory{Manifest: opened.Digest, Cached: status.CachedBytes}
		image.StartMissing, image.Estimated = status.StartEstimate()
		inventory.Images = append(inventory.Images, image)
	}
	i.read = read
	inventory.Starts = containerStarts(i.agent.node.StartDelays(), i.agent.snapshots.Pulls())
	return inventory, nil
}

// containerStarts combines starts, the oldest first, with pulls: the first start after a pull
// includes the time of the pull.
func containerStarts(starts []node.StartDelay, pulls []snapshotter.PullStatus) []ContainerStart {
	asked := make(map[[2]string]time.Time, len(pulls))
	for _, pull := range pulls {
		asked[[2]string{pull.Image, pull.Manifest}] = pull.Started
	}
	all := make([]ContainerStart, len(starts))
	for i, start := range starts {
		waited := start.Mounting
		key := [2]string{start.Image, start.Manifest.String()}
		if pull, ok := asked[key]; ok && pull.Before(start.Began) {
			if start.Began.Sub(pull) < maxPullAge {
				waited += start.Began.Sub(pull)
			}
			delete(asked, key)
		}
		all[i] = ContainerStart{Manifest: start.Manifest, Waited: waited + start.Waited, Finished: start.Finished}
	}
	return all
}
