package agent

import (
	"context"
	"errors"

	"github.com/brisk-project/brisk/cmd/internal/node"
	"github.com/brisk-project/brisk/internal/block"
)

// Held says what the machine has of images.
type Held struct {
	node.Held

	Images []HeldImage
}

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
		status := i.agent.node.ImageStatus(opened)
		image := HeldImage{Manifest: opened.Digest, Cached: status.CachedBytes}
		image.StartMissing, image.Estimated = status.StartMissing()
		held.Images = append(held.Images, image)
	}
	i.read = read
	return held, nil
}
