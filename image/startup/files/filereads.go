package files

import (
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

// FileRead is what a trace reads of one file.
type FileRead struct {
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

// StreamSizes returns the lengths in bytes of layer streams by stream ID.
func StreamSizes(layers []*index.Layer) map[block.Digest]int64 {
	sizes := make(map[block.Digest]int64, len(layers))
	for _, layer := range layers {
		sizes[layer.StreamID()] = layer.StreamSize()
	}
	return sizes
}

// FileReads returns the files that a trace reads, in the order of the first read. Of a page that
// several files share, each gets its part.
func FileReads(t startup.Trace, layers []*index.Layer) ([]FileRead, error) {
	n := namer{files: make(map[*File]*FileRead), rest: make(map[block.Digest]*FileRead)}
	reads, err := LayerReads(t, layers)
	if err != nil {
		return nil, err
	}
	for _, r := range reads {
		n.add(r)
	}
	named := make([]FileRead, len(n.order))
	for i, f := range n.order {
		named[i] = *f
	}
	return named, nil
}

// LayerRead is a span of a trace with the files that it touches.
type LayerRead struct {
	startup.Span

	// LayerNumber is that of the layer from the bottom one, 0, on; -1 for a layer that the image does
	// not have.
	LayerNumber int
	Index       *Index // of the layer
}

// LayerReads returns the spans of a trace, cut to the layers of an image that it has, in their order.
func LayerReads(t startup.Trace, layers []*index.Layer) ([]LayerRead, error) {
	numbers, indexes := make(map[block.Digest]int), make(map[block.Digest]*Index)
	for i, layer := range layers {
		if _, twice := numbers[layer.StreamID()]; !twice {
			numbers[layer.StreamID()] = i
		}
	}
	reads := make([]LayerRead, len(t))
	for i, s := range t {
		reads[i] = LayerRead{Span: s, LayerNumber: -1}
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
		reads[i].LayerNumber, reads[i].Index = number, indexes[s.Layer]
		reads[i].Length = min(s.Length, layers[number].StreamSize()-s.Offset)
	}
	return reads, nil
}

// namer adds up what reads have of files.
type namer struct {
	order []*FileRead
	files map[*File]*FileRead
	rest  map[block.Digest]*FileRead // what belongs to no file, by layer
}

func (n *namer) add(r LayerRead) {
	at := r.Offset
	for p := range r.Index.Parts(r.Offset, r.Length) {
		n.between(r, p.Offset-at)
		if n.files[p.File] == nil {
			n.files[p.File] = &FileRead{Path: p.File.Path, Layer: r.LayerNumber, Size: p.File.Size}
		}
		n.read(n.files[p.File], p.Length)
		at = max(at, p.end())
	}
	n.between(r, r.End()-at)
}

// between adds bytes of no file.
func (n *namer) between(r LayerRead, length int64) {
	if length <= 0 {
		return
	}
	if n.rest[r.Layer] == nil {
		n.rest[r.Layer] = &FileRead{Layer: r.LayerNumber}
	}
	n.read(n.rest[r.Layer], length)
}

func (n *namer) read(f *FileRead, length int64) {
	if f.Order == 0 {
		n.order = append(n.order, f)
		f.Order = len(n.order)
	}
	f.Bytes += length
}
