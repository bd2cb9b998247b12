package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/brisk-project/brisk/image/proof"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
)

// ProofsFile is the name of the file in a node's directory that keeps which layers are
// proven, and which indexes are false.
const ProofsFile = "proofs.json"

const (
	// proofsVersion goes up when entries are read from a tar in another way than before:
	// everything is then proven again.
	proofsVersion = 1
	// maxFalse bounds the false indexes that are remembered, those found last.
	maxFalse = 1024
	// maxIndexes bounds the indexes of one layer that are remembered to be true. Others
	// are compared again when they are used.
	maxIndexes = 64
	// maxProofs bounds the file in bytes.
	maxProofs = 64 << 20
	// maxReason bounds one description in it.
	maxReason = 1 << 10
)

// FalseIndex is a layer index that claims what is not true of its layer.
type FalseIndex struct {
	Index  block.Digest `json:"index"`
	Stream block.Digest `json:"stream"`
	// Layer is the digest of the stored layer.
	Layer block.Digest `json:"layer"`
	// Images are the names of images that had the index when that was found.
	Images []string `json:"images,omitempty"`
	// Reason says what is false.
	Reason string    `json:"reason"`
	Found  time.Time `json:"found"`
}

// provenLayer is what is true of a layer stream that was read to its end.
type provenLayer struct {
	Stream block.Digest `json:"stream"`
	proof.StreamDigests

	// Indexes were compared with the facts and are true.
	Indexes []block.Digest `json:"indexes,omitempty"`
}

// proofs remembers what was proven, also for the processes to come.
type proofs struct {
	path string

	mu      sync.Mutex // guards what follows
	layers  map[block.Digest]*provenLayer
	indexes map[block.Digest]FalseIndex
}

// proofsState is the content of the file.
type proofsState struct {
	Version int            `json:"version"`
	Layers  []*provenLayer `json:"layers"`
	False   []FalseIndex   `json:"false"`
}

// openProofs reads what processes before have proven. With an error it has nothing.
func openProofs(path string) (*proofs, error) {
	p := &proofs{path: path, layers: make(map[block.Digest]*provenLayer), indexes: make(map[block.Digest]FalseIndex)}
	content, err := statefile.Read(path, maxProofs)
	if err != nil {
		return p, fmt.Errorf("reading proofs: %w", err)
	}
	if content == nil {
		return p, nil
	}
	kept, err := parseProofs(content)
	if err != nil {
		return p, err
	}
	for _, layer := range kept.Layers {
		p.layers[layer.Stream] = layer
	}
	for _, lie := range kept.False {
		p.indexes[lie.Index] = lie
	}
	return p, nil
}

func parseProofs(content []byte) (proofsState, error) {
	var kept proofsState
	if err := json.Unmarshal(content, &kept); err != nil {
		return proofsState{}, fmt.Errorf("decoding proofs: %w", err)
	}
	if kept.Version != proofsVersion {
		return proofsState{}, fmt.Errorf("proofs have version %d, not %d", kept.Version, proofsVersion)
	}
	if slices.Contains(kept.Layers, nil) {
		return proofsState{}, errors.New("decoding proofs: a layer is null")
	}
	return kept, nil
}

// facts returns what is true of a stream, if that is known.
func (p *proofs) facts(stream block.Digest) (proof.StreamDigests, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if layer := p.layers[stream]; layer != nil {
		return layer.StreamDigests, true
	}
	return proof.StreamDigests{}, false
}

// falseIndex returns what is known of an index if it is false.
func (p *proofs) falseIndex(index block.Digest) (FalseIndex, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lie, ok := p.indexes[index]
	return lie, ok
}

// judged reports whether it is known if an index is true.
func (p *proofs) judged(stream, index block.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.indexes[index]; ok {
		return true
	}
	layer := p.layers[stream]
	return layer != nil && slices.Contains(layer.Indexes, index)
}

// proven reports whether the index of a layer is known to be true.
func (p *proofs) proven(layer ImageLayer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.layers[layer.Stream]
	return known != nil && slices.Contains(known.Indexes, layer.Index)
}

// verdict is what was found of the indexes of one stream.
type verdict struct {
	stream block.Digest
	facts  proof.StreamDigests
	right  []block.Digest
	wrong  []FalseIndex
}

// add remembers a verdict. It returns the false indexes that were not known.
func (p *proofs) add(v verdict) (found []FalseIndex, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	layer := p.layers[v.stream]
	if layer == nil {
		layer = &provenLayer{Stream: v.stream, StreamDigests: v.facts}
		p.layers[v.stream] = layer
	}
	for _, index := range v.right {
		if !slices.Contains(layer.Indexes, index) {
			layer.Indexes = append(layer.Indexes, index)
		}
	}
	layer.Indexes = layer.Indexes[max(0, len(layer.Indexes)-maxIndexes):]
	for _, lie := range v.wrong {
		if _, known := p.indexes[lie.Index]; !known {
			p.indexes[lie.Index] = lie
			found = append(found, lie)
		}
	}
	for _, lie := range p.falseLocked() {
		if len(p.indexes) <= maxFalse {
			break
		}
		delete(p.indexes, lie.Index)
	}
	return found, p.saveLocked()
}

// falseLocked returns the false indexes, those found first at the front.
func (p *proofs) falseLocked() []FalseIndex {
	all := make([]FalseIndex, 0, len(p.indexes))
	for _, lie := range p.indexes {
		all = append(all, lie)
	}
	slices.SortFunc(all, func(a, b FalseIndex) int { return a.Found.Compare(b.Found) })
	return all
}

// count returns how many false indexes are remembered.
func (p *proofs) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.indexes)
}

// retain forgets what is true of streams that are not kept. False indexes are remembered.
func (p *proofs) retain(kept func(stream block.Digest) bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.layers)
	for stream := range p.layers {
		if !kept(stream) {
			delete(p.layers, stream)
		}
	}
	if len(p.layers) == before {
		return nil
	}
	return p.saveLocked()
}

// saveLocked writes the file: whatever stops the machine, it is then the old or the new one.
func (p *proofs) saveLocked() error {
	state := proofsState{Version: proofsVersion, False: p.falseLocked()}
	for _, layer := range p.layers {
		state.Layers = append(state.Layers, layer)
	}
	content, err := json.Marshal(state)
	if err == nil {
		err = statefile.WriteDurable(p.path, content)
	}
	if err != nil {
		return fmt.Errorf("saving proofs: %w", err)
	}
	return nil
}
