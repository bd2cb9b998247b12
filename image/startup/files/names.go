package files

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

// Named is what a trace reads of one file.
type Named struct {
	// Path is that of the file in its layer, without a leading slash. It is empty for what
	// lies between files, such as tar headers, and for layers that the image does not have.
	Path string `json:"path"`
	// Layer is the number of the layer from the bottom one, 0, on; -1 for a layer that the
	// image does not have.
	Layer int `json:"layer"`
	// Bytes of the Size bytes of the file are read.
	Bytes int64 `json:"bytes"`
	Size  int64 `json:"size"`
	// Order is the position among all files by their first read, from 1 on.
	Order int `json:"order"`
}

// Sizes returns the lengths in bytes of layer streams by stream ID.
func Sizes(layers []*index.Layer) map[block.Digest]int64 {
	sizes := make(map[block.Digest]int64, len(layers))
	for _, layer := range layers {
		sizes[layer.StreamID()] = layer.StreamSize()
	}
	return sizes
}

// extent is a part of a layer stream that belongs to a file.
type extent struct {
	start, end int64
	file       *Named
}

// Names returns the files that a trace reads, in the order of the first read. Of a page that
// several files share, each gets its part.
func Names(t startup.Trace, layers []*index.Layer) ([]Named, error) {
	read := make(map[block.Digest]bool)
	for _, s := range t {
		read[s.Layer] = true
	}
	extents := make(map[block.Digest][]extent)
	for i, layer := range layers {
		id := layer.StreamID()
		if _, twice := extents[id]; twice || !read[id] {
			continue
		}
		found, err := extentsOf(layer, i)
		if err != nil {
			return nil, err
		}
		extents[id] = found
	}
	n := namer{rest: make(map[block.Digest]*Named)}
	for _, s := range t {
		known, ok := extents[s.Layer]
		number := -1
		if ok {
			number = slices.IndexFunc(layers, func(l *index.Layer) bool { return l.StreamID() == s.Layer })
			s.Length = min(s.Length, layers[number].StreamSize()-s.Offset)
		}
		n.add(s, known, number)
	}
	named := make([]Named, len(n.order))
	for i, f := range n.order {
		named[i] = *f
	}
	return named, nil
}

// extentsOf returns the extents of the files of a layer in the order of the stream.
func extentsOf(layer *index.Layer, number int) ([]extent, error) {
	found := []extent{}
	for e, err := range layer.Entries() {
		if err != nil {
			return nil, fmt.Errorf("reading the entries of layer %d: %w", number, err)
		}
		if len(e.Segments) == 0 {
			continue
		}
		file := &Named{Path: e.Path, Layer: number, Size: e.Size}
		for _, s := range e.Segments {
			found = append(found, extent{s.StreamOffset, s.StreamOffset + s.Length, file})
		}
	}
	slices.SortFunc(found, func(a, b extent) int { return cmp.Compare(a.start, b.start) })
	return found, nil
}

// namer adds up what spans read of files.
type namer struct {
	order []*Named
	rest  map[block.Digest]*Named // what belongs to no file, by layer
}

func (n *namer) add(s startup.Span, known []extent, layer int) {
	at := s.Offset
	i, _ := slices.BinarySearchFunc(known, s.Offset, func(e extent, off int64) int { return cmp.Compare(e.end, off+1) })
	for ; i < len(known) && known[i].start < s.End(); i++ {
		e := known[i]
		n.between(s.Layer, layer, e.start-at)
		n.read(e.file, min(e.end, s.End())-max(e.start, s.Offset))
		at = max(at, e.end)
	}
	n.between(s.Layer, layer, s.End()-at)
}

// between adds bytes of no file.
func (n *namer) between(id block.Digest, layer int, length int64) {
	if length <= 0 {
		return
	}
	if n.rest[id] == nil {
		n.rest[id] = &Named{Layer: layer}
	}
	n.read(n.rest[id], length)
}

func (n *namer) read(f *Named, length int64) {
	if length <= 0 {
		return
	}
	if f.Order == 0 {
		n.order = append(n.order, f)
		f.Order = len(n.order)
	}
	f.Bytes += length
}
