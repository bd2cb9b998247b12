package blocktest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// Layer is one layer stream with known content.
type Layer struct {
	Name string       // what is special about it
	ID   block.Digest // the stream ID
	Data []byte       // the layer stream; read only
}

// Range returns all blocks of the layer.
func (l *Layer) Range() block.Range {
	return block.Range{Layer: l.ID, Count: block.Count(int64(len(l.Data)))}
}

// Fixture is a set of layer streams with known content. It implements
// [block.Layout]. It does not change once made, so it is safe for concurrent use.
type Fixture struct {
	layers  []*Layer
	byID    map[block.Digest]*Layer
	digests map[block.Key]block.Digest
}

// New returns a fixture of the given layers; stream IDs are computed.
func New(layers ...Layer) *Fixture {
	f := &Fixture{
		byID:    make(map[block.Digest]*Layer),
		digests: make(map[block.Key]block.Digest),
	}
	for i := range layers {
		l := &layers[i]
		var digests []byte
		for part := range slices.Chunk(l.Data, block.Size) {
			digest := block.Sum(part)
			digests = append(digests, digest[:]...)
		}
		l.ID = block.StreamID(int64(len(l.Data)), digests)
		f.layers = append(f.layers, l)
		f.byID[l.ID] = l
		for k := range keys(l.Range()) {
			f.digests[k] = block.Sum(f.Content(k))
		}
	}
	return f
}

// The sizes in bytes of the layer streams of [Standard] that have one content
// each: everything a tar holds beside the content of its one file is tarOverhead.
const (
	tarOverhead = 3 * 512 // one header, two zero blocks at the end
	tailSize    = 7 * 512
)

// Standard returns the fixture for implementations that need layer streams to be
// tars. It has an empty tar, one of less than a block, one of exactly a block,
// one of several blocks and a short tail that compresses well, and one of more
// than an extent that does not compress. The content is the same in every call.
func Standard() *Fixture {
	return New(
		Layer{Name: "empty tar", Data: make([]byte, 1024)},
		Layer{Name: "part of a block", Data: Tar("small", text(tailSize))},
		Layer{Name: "exactly a block", Data: Tar("exact", Random(1, block.Size-tarOverhead))},
		Layer{Name: "blocks and a tail", Data: Tar("text", text(5*block.Size+tailSize))},
		Layer{Name: "more than an extent", Data: Tar("random", Random(2, block.ExtentSize+2*block.Size+tailSize))},
	)
}

// Raw returns a fixture of streams that are not tars: none, one byte, one byte
// less and one more than a block, and an extent exactly.
func Raw() *Fixture {
	return New(
		Layer{Name: "nothing"},
		Layer{Name: "one byte", Data: Random(3, 1)},
		Layer{Name: "a byte less than a block", Data: Random(4, block.Size-1)},
		Layer{Name: "a byte more than a block", Data: Random(5, block.Size+1)},
		Layer{Name: "exactly an extent", Data: Random(6, block.ExtentSize)},
	)
}

// Random returns size bytes that do not compress, the same for the same seed.
func Random(seed byte, size int) []byte {
	data := make([]byte, size)
	if _, err := rand.NewChaCha8([32]byte{seed}).Read(data); err != nil {
		panic(err) // documented never to happen
	}
	return data
}

// Tar returns a tar that holds one regular file.
func Tar(name string, content []byte) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	header := &tar.Header{
		Typeflag: tar.TypeReg,
		Name:     name,
		Mode:     0o644,
		Size:     int64(len(content)),
		ModTime:  time.Unix(1_700_000_000, 0),
	}
	if err := w.WriteHeader(header); err != nil {
		panic(fmt.Sprintf("tar header of %q: %v", name, err))
	}
	if _, err := w.Write(content); err != nil {
		panic(fmt.Sprintf("tar content of %q: %v", name, err))
	}
	if err := w.Close(); err != nil {
		panic(fmt.Sprintf("end of tar of %q: %v", name, err))
	}
	return buf.Bytes()
}

func text(size int) []byte {
	var buf bytes.Buffer
	for i := 0; buf.Len() < size; i++ {
		fmt.Fprintf(&buf, "line %d of a text that compresses well\n", i)
	}
	return buf.Bytes()[:size]
}

// Layers returns the layers in the order they were given.
func (f *Fixture) Layers() []*Layer { return f.layers }

// Largest returns the layer with the longest stream.
func (f *Fixture) Largest() *Layer {
	largest := f.layers[0]
	for _, l := range f.layers {
		if len(l.Data) > len(largest.Data) {
			largest = l
		}
	}
	return largest
}

// Keys yields the key of every block of every layer, in order.
func (f *Fixture) Keys() iter.Seq[block.Key] {
	return func(yield func(block.Key) bool) {
		for _, l := range f.layers {
			for k := range keys(l.Range()) {
				if !yield(k) {
					return
				}
			}
		}
	}
}

// Content returns the bytes of one block, nil when the fixture has no such block.
// They must not be modified.
func (f *Fixture) Content(k block.Key) []byte {
	l, ok := f.byID[k.Layer]
	if !ok || k.Offset() >= int64(len(l.Data)) {
		return nil
	}
	return l.Data[k.Offset():min(k.Offset()+block.Size, int64(len(l.Data)))]
}

// Stream returns a reader of the layer stream, nil when the layer is unknown.
func (f *Fixture) Stream(layer block.Digest) io.ReaderAt {
	l, ok := f.byID[layer]
	if !ok {
		return nil
	}
	return bytes.NewReader(l.Data)
}

// StreamSize implements [block.Layout].
func (f *Fixture) StreamSize(layer block.Digest) (int64, bool) {
	l, ok := f.byID[layer]
	if !ok {
		return 0, false
	}
	return int64(len(l.Data)), true
}

// BlockDigest implements [block.Layout].
func (f *Fixture) BlockDigest(k block.Key) (block.Digest, bool) {
	d, ok := f.digests[k]
	return d, ok
}

func keys(r block.Range) iter.Seq[block.Key] {
	return func(yield func(block.Key) bool) {
		for i := range r.Count {
			if !yield(r.Key(i)) {
				return
			}
		}
	}
}
