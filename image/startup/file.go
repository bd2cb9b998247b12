package startup

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// MaxEncoded is the greatest length in bytes of an encoded trace, twice that of the
	// longest one there can be.
	MaxEncoded = 1 << 20
	// MaxCommand is the greatest length in bytes of the command of a trace.
	MaxCommand = 4096
	// maxDecoded is the greatest length in bytes of what is compressed: all spans, with
	// layer, offset and length as long as they can be, and the layers.
	maxDecoded = MaxSpans*(2+5+4) + MaxLayers*len(block.Digest{}) + MaxCommand + 64
	// window is the greatest distance in bytes that decompression looks back.
	window = 1 << 20
	// magic begins what is compressed: the format and its version.
	magic = "brisk trace 1\n"
	// flagPredicted is set in the trace of [File.Predicted], flagList in that of [File.List].
	flagPredicted = 1
	flagList      = 2
	knownFlags    = flagPredicted | flagList
)

// File is a trace with what is known of its origin.
type File struct {
	Trace Trace
	// Command is the command line that was run, empty if it is not known. It is the key of
	// the trace among those of an image.
	Command string
	// Predicted says that nothing was run: the trace was derived from the content of the image.
	Predicted bool
	// List says that the trace reads the files of a prefetch list, which a user has written.
	List bool
}

// Encode returns the form of the trace that [Parse] reads.
func (t Trace) Encode() ([]byte, error) { return File{Trace: t}.Encode() }

// Parse reads an encoded trace. It is [ParseFile] for those who need nothing else.
func Parse(encoded []byte) (Trace, error) {
	f, err := ParseFile(encoded)
	return f.Trace, err
}

// Encode returns the form of the file that [ParseFile] reads: one zstd frame with a checksum.
// The same file gives the same bytes. Spans are stored in whole pages.
func (f File) Encode() ([]byte, error) {
	if len(f.Command) > MaxCommand || !utf8.ValidString(f.Command) {
		return nil, fmt.Errorf("encoding a trace: the command has %d bytes or is not UTF-8, the limit is %d bytes", len(f.Command), MaxCommand)
	}
	flags := uint64(0)
	if f.Predicted {
		flags |= flagPredicted
	}
	if f.List {
		flags |= flagList
	}
	var layers []byte
	numbers := make(map[block.Digest]uint64)
	ends := make(map[block.Digest]int64) // page after the span before, by layer
	spans := binary.AppendUvarint(nil, uint64(len(f.Trace)))
	for _, s := range f.Trace {
		number, known := numbers[s.Layer]
		if !known {
			number = uint64(len(numbers))
			numbers[s.Layer] = number
			layers = append(layers, s.Layer[:]...)
		}
		first, end := s.Offset/PageSize, (s.End()+PageSize-1)/PageSize
		spans = binary.AppendUvarint(spans, number)
		spans = binary.AppendVarint(spans, first-ends[s.Layer])
		spans = binary.AppendUvarint(spans, uint64(end-first))
		ends[s.Layer] = end
	}
	body := binary.AppendUvarint([]byte(magic), flags)
	body = binary.AppendUvarint(body, uint64(len(f.Command)))
	body = append(body, f.Command...)
	body = binary.AppendUvarint(body, uint64(len(numbers)))
	body = append(append(body, layers...), spans...)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(window))
	if err != nil {
		return nil, fmt.Errorf("making a zstd encoder: %w", err)
	}
	encoded := enc.EncodeAll(body, nil)
	if len(encoded) > MaxEncoded {
		return nil, fmt.Errorf("encoding a trace: %d bytes, the limit is %d", len(encoded), MaxEncoded)
	}
	return encoded, nil
}

// ParseFile reads an encoded trace. One that is damaged, exceeds a limit or has another version
// is an error. Whether the image has its layers and pages is for the caller to find out, see
// [Trace.Clip].
func ParseFile(encoded []byte) (File, error) {
	f, err := parse(encoded)
	if err != nil {
		return File{}, fmt.Errorf("reading a trace: %w", err)
	}
	return f, nil
}

func parse(encoded []byte) (File, error) {
	if len(encoded) > MaxEncoded {
		return File{}, fmt.Errorf("%d bytes, the limit is %d", len(encoded), MaxEncoded)
	}
	dec, err := zstd.NewReader(bytes.NewReader(encoded), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return File{}, fmt.Errorf("making a zstd decoder: %w", err)
	}
	defer dec.Close()
	limited := &io.LimitedReader{R: dec, N: int64(maxDecoded)}
	p := parser{in: bufio.NewReader(limited)}
	f := p.file()
	switch _, err := p.in.ReadByte(); {
	case p.err != nil:
		return File{}, p.err
	case err == nil:
		return File{}, errors.New("bytes after the last span")
	case limited.N <= 0:
		return File{}, fmt.Errorf("more than %d bytes decompressed", maxDecoded)
	case !errors.Is(err, io.EOF):
		return File{}, err
	}
	return f, nil
}

// parser reads the decompressed bytes of a trace. After the first error all that it reads is
// zero.
type parser struct {
	in  *bufio.Reader
	err error
}

func (p *parser) file() File {
	if got := p.bytes(len(magic), "the version"); p.err == nil && string(got) != magic {
		p.fail("it begins with %q, not with %q", got, magic)
	}
	flags := p.number(knownFlags, "flags")
	command := string(p.bytes(p.number(MaxCommand, "bytes of the command"), "the command"))
	if !utf8.ValidString(command) {
		p.fail("the command is not UTF-8")
	}
	layers := make([]block.Digest, p.number(MaxLayers, "layers"))
	for i := range layers {
		copy(layers[i][:], p.bytes(len(layers[i]), "a layer"))
	}
	return File{Trace: p.spans(layers), Command: command, Predicted: flags&flagPredicted != 0, List: flags&flagList != 0}
}

func (p *parser) spans(layers []block.Digest) Trace {
	var all Recorder
	pages := 0
	ends := make([]int64, len(layers))
	for range p.number(MaxSpans, "spans") {
		layer := p.number(len(layers)-1, "the layer of a span")
		distance, err := binary.ReadVarint(p.in)
		if err != nil {
			p.fail("the offset of a span: %w", err)
		}
		count := p.number(MaxBlocks*blockPages-pages, "pages of a span")
		if p.err != nil {
			return nil
		}
		first := ends[layer] + distance
		if first < 0 || first > maxPage || count == 0 {
			p.fail("%d pages from page %d on cannot be", count, first)
			return nil
		}
		pages += count
		ends[layer] = first + int64(count)
		all.Add(Span{Layer: layers[layer], Offset: first * PageSize, Length: int64(count) * PageSize})
	}
	t := all.Trace()
	if t.Bytes() != int64(pages)*PageSize {
		p.fail("a page occurs twice, or more than %d blocks do", MaxBlocks)
	}
	return t
}

// number reads a number of at most limit.
func (p *parser) number(limit int, what string) int {
	n, err := binary.ReadUvarint(p.in)
	if err != nil {
		p.fail("%s: %w", what, err)
	} else if limit < 0 || n > uint64(limit) {
		p.fail("%s: %d, the limit is %d", what, n, limit)
	}
	if p.err != nil {
		return 0
	}
	return int(n)
}

func (p *parser) bytes(n int, what string) []byte {
	got := make([]byte, n)
	if p.err != nil {
		return got
	}
	if _, err := io.ReadFull(p.in, got); err != nil {
		p.fail("%s: %w", what, err)
	}
	return got
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}
