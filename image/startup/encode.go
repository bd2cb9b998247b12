package startup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// MaxEncoded is the greatest length in bytes of an encoded trace: that of one whose
	// blocks are all of different layers.
	MaxEncoded = 256 << 10
	// magic begins an encoded trace: the format and its version. The digest of what follows
	// the line comes next.
	magic = "brisk trace 1 "
)

// document is what follows the first line. A run is the number of its layer, its first
// block, and how many it has.
type document struct {
	Layers []block.Digest `json:"layers"`
	Runs   [][3]uint32    `json:"runs"`
}

// Encode returns the form of the trace that [Parse] reads.
func (t Trace) Encode() ([]byte, error) {
	var doc document
	for _, r := range t {
		layer := slices.Index(doc.Layers, r.Layer)
		if layer < 0 {
			layer = len(doc.Layers)
			doc.Layers = append(doc.Layers, r.Layer)
		}
		doc.Runs = append(doc.Runs, [3]uint32{uint32(layer), r.First, r.Count})
	}
	body, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encoding a trace: %w", err)
	}
	return append([]byte(magic+block.Sum(body).String()+"\n"), body...), nil
}

// Parse reads an encoded trace. One that is damaged, too long, or of another version is an
// error. Whether its layers and blocks exist is for the caller to find out.
func Parse(encoded []byte) (Trace, error) {
	t, err := parse(encoded)
	if err != nil {
		return nil, fmt.Errorf("reading a trace: %w", err)
	}
	return t, nil
}

func parse(encoded []byte) (Trace, error) {
	if len(encoded) > MaxEncoded {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(encoded), MaxEncoded)
	}
	line, body, _ := bytes.Cut(encoded, []byte("\n"))
	digest, ok := bytes.CutPrefix(line, []byte(magic))
	if !ok {
		return nil, fmt.Errorf("it begins with %.40q, not with %q", line, magic)
	}
	if block.Sum(body).String() != string(digest) {
		return nil, errors.New("it does not have its digest")
	}
	var doc document
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, err
	}
	var all Recorder
	blocks := uint64(0)
	for _, run := range doc.Runs {
		layer, first, count := run[0], run[1], run[2]
		blocks += uint64(count)
		if int64(layer) >= int64(len(doc.Layers)) || blocks > MaxBlocks {
			return nil, fmt.Errorf("a run of %d blocks of layer %d, of %d layers, cannot be", count, layer, len(doc.Layers))
		}
		all.Add(block.Range{Layer: doc.Layers[layer], First: first, Count: count})
	}
	if uint64(len(all.seen)) != blocks {
		return nil, errors.New("it has a block twice, or one that cannot be")
	}
	return all.Trace(), nil
}
