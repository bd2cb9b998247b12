package files

import (
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

// Names returns the files that a trace reads, in the order of the first read. Of a page that
// several files share, each gets its part.
func Names(t startup.Trace, layers []*index.Layer) ([]Named, error) {
	n := namer{files: make(map[*File]*Named), rest: make(map[block.Digest]*Named)}
	reads, err := Reads(t, layers)
	if err != nil {
		return nil, err
	}
	for _, r := range reads {
		n.add(r)
	}
	named := make([]Named, len(n.order))
	for i, f := range n.order {
		named[i] = *f
	}
	return named, nil
}

// Read is a span of a trace with the files that it touches.
type Read struct {
	startup.Span

	// Number is that of the layer from the bottom one, 0, on; -1 for a layer that the image does
	// not have.
	Number int
	Index  *Index // of the layer
}

// Reads returns the spans of a trace, cut to the layers of an image that it has, in their order.
func Reads(t startup.Trace, layers []*index.Layer) ([]Read, error) {
	numbers, indexes := make(map[block.Digest]int), make(map[block.Digest]*Index)
	for i, layer := range layers {
		if _, twice := numbers[layer.StreamID()]; !twice {
			numbers[layer.StreamID()] = i
		}
	}
	reads := make([]Read, len(t))
	for i, s := range t {
		reads[i] = Read{Span: s, Number: -1}
		number, known := numbers[s.Layer]
		if !known {
			continue
		}
		if indexes[s.Layer] == nil {
			var err error
			if indexes[s.Layer], err = IndexOf(layers[number]); err != nil {
				return nil, err
			}
		}
		reads[i].Number, reads[i].Index = number, indexes[s.Layer]
		reads[i].Length = min(s.Length, layers[number].StreamSize()-s.Offset)
	}
	return reads, nil
}

// namer adds up what reads have of files.
type namer struct {
	order []*Named
	files map[*File]*Named
	rest  map[block.Digest]*Named // what belongs to no file, by layer
}

func (n *namer) add(r Read) {
	at := r.Offset
	for p := range r.Index.Parts(r.Offset, r.Length) {
		n.between(r, p.Offset-at)
		if n.files[p.File] == nil {
			n.files[p.File] = &Named{Path: p.File.Path, Layer: r.Number, Size: p.File.Size}
		}
		n.read(n.files[p.File], p.Length)
		at = max(at, p.end())
	}
	n.between(r, r.End()-at)
}

// between adds bytes of no file.
func (n *namer) between(r Read, length int64) {
	if length <= 0 {
		return
	}
	if n.rest[r.Layer] == nil {
		n.rest[r.Layer] = &Named{Layer: r.Number}
	}
	n.read(n.rest[r.Layer], length)
}

func (n *namer) read(f *Named, length int64) {
	if f.Order == 0 {
		n.order = append(n.order, f)
		f.Order = len(n.order)
	}
	f.Bytes += length
}
