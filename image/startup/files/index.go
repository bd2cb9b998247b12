package files

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"github.com/brisk-project/brisk/image/index"
)

// maxParts bounds the parts of files that are kept of one layer.
const maxParts = 1 << 22

// File is a file of a layer.
type File struct {
	Path string
	Size int64
}

// Part is a part of a file: Length bytes of the layer stream from Offset on, which are those of the
// file from Position on.
type Part struct {
	File                     *File
	Offset, Length, Position int64
}

func (p Part) end() int64 { return p.Offset + p.Length }

// Index knows which file lies where in a layer stream. The nil Index knows none.
type Index struct{ parts []Part }

// IndexOf returns the files of a layer.
func IndexOf(layer *index.Layer) (*Index, error) {
	x := new(Index)
	for e, err := range layer.Entries() {
		if err != nil {
			return nil, fmt.Errorf("reading the entries of layer %s: %w", layer.BlobDigest().Short(), err)
		}
		if len(e.Segments) == 0 {
			continue
		}
		if len(x.parts)+len(e.Segments) > maxParts {
			return nil, fmt.Errorf("layer %s has more than %d parts of files", layer.BlobDigest().Short(), maxParts)
		}
		file := &File{Path: e.Path, Size: e.Size}
		for _, s := range e.Segments {
			x.parts = append(x.parts, Part{File: file, Offset: s.StreamOffset, Length: s.Length, Position: s.FileOffset})
		}
	}
	x.sort()
	return x, nil
}

func (x *Index) sort() {
	slices.SortFunc(x.parts, func(a, b Part) int { return cmp.Compare(a.Offset, b.Offset) })
}

// Parts yields what files have of a range of the stream, in its order.
func (x *Index) Parts(offset, length int64) iter.Seq[Part] {
	return func(yield func(Part) bool) {
		if x == nil {
			return
		}
		// The first that ends behind the offset.
		first, _ := slices.BinarySearchFunc(x.parts, offset, func(p Part, offset int64) int { return cmp.Compare(p.end(), offset+1) })
		for _, p := range x.parts[first:] {
			if p.Offset >= offset+length {
				return
			}
			begin, end := max(p.Offset, offset), min(p.end(), offset+length)
			if begin < end && !yield(Part{p.File, begin, end - begin, p.Position + begin - p.Offset}) {
				return
			}
		}
	}
}

// Locate returns the path of the file that has most of a range of the stream, and where in it that
// begins; no path if there is none.
func (x *Index) Locate(offset, length int64) (path string, position int64) {
	most := int64(0)
	for p := range x.Parts(offset, length) {
		if p.Length > most {
			most, path, position = p.Length, p.File.Path, p.Position
		}
	}
	return path, position
}
