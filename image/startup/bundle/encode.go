package bundle

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// skippable begins a zstd frame that decoders skip, of the kind that bundles use.
	skippable = 0x184D2A5B
	// skippableHeader is the length of the beginning of such a frame.
	skippableHeader = 8
	// magic begins a table: the format and its version.
	magic = "brisk bundle 1\n"
)

// Encode returns the frame that holds the table: the first bytes of the blob.
func (t *Table) Encode() ([]byte, error) {
	if t.FrameSize < MinFrameSize || t.FrameSize > MaxFrameSize || len(t.Layers) > MaxLayers || len(t.Spans) > MaxSpans {
		return nil, fmt.Errorf("encoding the table of a bundle: frames of %d bytes, %d layers, %d spans", t.FrameSize, len(t.Layers), len(t.Spans))
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("encoding the table of a bundle: %w", err)
	}
	out := make([]byte, skippableHeader, skippableHeader+len(magic)+len(t.Layers)*40+len(t.Spans)*6+len(t.Frames)*36)
	out = append(out, magic...)
	out = binary.AppendUvarint(out, uint64(t.FrameSize))
	out = binary.AppendUvarint(out, uint64(len(t.Layers)))
	numbers := make(map[block.Digest]int, len(t.Layers))
	for i, l := range t.Layers {
		numbers[l.ID] = i
		out = append(out, l.ID[:]...)
		out = binary.AppendUvarint(out, uint64(l.Size))
	}
	out = binary.AppendUvarint(out, uint64(len(t.Spans)))
	ends := make([]int64, len(t.Layers)) // page after the last span of each layer
	for _, s := range t.Spans {
		n := numbers[s.Layer]
		first, count := s.Offset/PageSize, pages(s.Length)
		out = binary.AppendUvarint(out, uint64(n))
		out = binary.AppendVarint(out, first-ends[n])
		out = binary.AppendUvarint(out, uint64(count))
		ends[n] = first + count
	}
	out = binary.AppendUvarint(out, uint64(len(t.Frames)))
	for _, f := range t.Frames {
		out = binary.AppendUvarint(out, uint64(f.Stored))
		out = append(out, f.Digest[:]...)
	}
	if len(out) > MaxTable {
		return nil, fmt.Errorf("encoding the table of a bundle: %d bytes, the limit is %d", len(out), MaxTable)
	}
	binary.LittleEndian.PutUint32(out, skippable)
	binary.LittleEndian.PutUint32(out[4:], uint32(len(out)-skippableHeader))
	return out, nil
}

func pages(n int64) int64 { return (n + PageSize - 1) / PageSize }

// ParseTable reads an encoded table. What is not exactly the encoding of one is an error.
func ParseTable(encoded []byte) (*Table, error) {
	t, err := parseTable(encoded)
	if err == nil {
		err = t.check()
	}
	if err != nil {
		return nil, fmt.Errorf("reading the table of a bundle: %w", err)
	}
	// There are several ways to write a number, of which only one is right.
	if again, err := t.Encode(); err != nil || !bytes.Equal(again, encoded) {
		return nil, errors.Join(errors.New("reading the table of a bundle: it is not encoded as it should be"), err)
	}
	return t, nil
}

func parseTable(encoded []byte) (*Table, error) {
	if len(encoded) > MaxTable || len(encoded) < skippableHeader {
		return nil, fmt.Errorf("it has %d bytes", len(encoded))
	}
	if binary.LittleEndian.Uint32(encoded) != skippable ||
		int64(binary.LittleEndian.Uint32(encoded[4:])) != int64(len(encoded)-skippableHeader) {
		return nil, errors.New("it does not begin with its length")
	}
	p := parser{rest: encoded[skippableHeader:]}
	if got := p.bytes(len(magic)); string(got) != magic {
		return nil, fmt.Errorf("it begins with %q, not with %q", got, magic)
	}
	t := &Table{FrameSize: int64(p.number(MaxFrameSize))}
	if p.err == nil && t.FrameSize < MinFrameSize {
		return nil, fmt.Errorf("its frames have %d bytes", t.FrameSize)
	}
	p.layers(t)
	p.spans(t)
	for range p.count(MaxBytes/MinFrameSize, len(block.Digest{})+1) {
		t.Frames = append(t.Frames, Frame{Stored: int64(p.number(maxStored(MaxFrameSize))), Digest: p.digest()})
	}
	if p.err == nil && len(p.rest) > 0 {
		return nil, fmt.Errorf("%d bytes follow its end", len(p.rest))
	}
	return t, p.err
}

// parser takes values off a table. After an error it returns zeros.
type parser struct {
	rest []byte
	err  error
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
	p.rest = nil
}

func (p *parser) bytes(n int) []byte {
	if len(p.rest) < n {
		p.fail(io.ErrUnexpectedEOF)
		return nil
	}
	out := p.rest[:n]
	p.rest = p.rest[n:]
	return out
}

func (p *parser) digest() (d block.Digest) {
	copy(d[:], p.bytes(len(d)))
	return d
}

func (p *parser) number(limit int64) uint64 {
	v, n := binary.Uvarint(p.rest)
	if n <= 0 || v > uint64(limit) {
		p.fail(fmt.Errorf("a number is missing or greater than %d", limit))
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) signed() int64 {
	v, n := binary.Varint(p.rest)
	if n <= 0 {
		p.fail(errors.New("a number is missing"))
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

// count returns the length of a list whose items take at least size bytes each.
func (p *parser) count(limit, size int) int {
	n := int(p.number(int64(limit)))
	if n > len(p.rest)/size {
		p.fail(io.ErrUnexpectedEOF)
		return 0
	}
	return n
}

func (p *parser) layers(t *Table) {
	n := p.count(MaxLayers, len(block.Digest{})+1)
	t.Layers = make([]Layer, 0, n)
	for range n {
		t.Layers = append(t.Layers, Layer{ID: p.digest(), Size: int64(p.number(maxStream))})
	}
}

// maxStream is the greatest length of a layer stream: block numbers have 32 bits.
const maxStream = block.Size << 32

func (p *parser) spans(t *Table) {
	n := p.count(MaxSpans, 3)
	t.Spans = make([]Span, 0, n)
	ends := make([]int64, len(t.Layers))
	for range n {
		layer, delta := p.number(MaxLayers), p.signed()
		count := int64(p.number(MaxSpans))
		if p.err != nil {
			return
		}
		if layer >= uint64(len(t.Layers)) {
			p.fail(fmt.Errorf("a span is of layer %d of %d", layer, len(t.Layers)))
			return
		}
		first := ends[layer] + delta
		if first < 0 || first > maxStream/PageSize || count == 0 {
			p.fail(fmt.Errorf("a span has %d pages from %d on", count, first))
			return
		}
		ends[layer] = first + count
		off := first * PageSize
		t.Spans = append(t.Spans, Span{
			Layer: t.Layers[layer].ID, Offset: off, Length: min(count*PageSize, t.Layers[layer].Size-off),
		})
	}
	t.Spans = slices.Clip(t.Spans)
}
