package index

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/image/gzran"
)

// StreamReader reads the layer stream of a stored blob from its start to its end.
type StreamReader struct {
	io.Reader

	close func()
}

// Close frees what decoding takes. It does not close the blob.
func (r *StreamReader) Close() { r.close() }

// OpenStream returns a reader of the layer stream of a blob, decompressed as [Build] does it. A blob
// that is truncated or corrupt is an error at its end. What follows the last member of a gzip blob may be left unread.
func OpenStream(blob io.Reader) (*StreamReader, error) {
	br := bufio.NewReaderSize(blob, 64<<10)
	compression, err := detect(br)
	if err != nil {
		return nil, fmt.Errorf("reading the layer blob: %w", err)
	}
	switch compression {
	case CompressionGzip:
		zr, err := gzran.NewReader(br, gzran.Config{Spacing: math.MaxInt64})
		if err != nil {
			return nil, err
		}
		return &StreamReader{Reader: zr, close: func() {}}, nil
	case CompressionZstd:
		zr, err := newZstdReader(br)
		if err != nil {
			return nil, err
		}
		return &StreamReader{Reader: zr, close: zr.close}, nil
	default:
		return &StreamReader{Reader: br, close: func() {}}, nil
	}
}

// LongZstdFrame reports whether a zstd blob begins with a frame that is too long for the layer to be
// read in parts, see [Layer.Seekable]. It reads no more of the blob than it takes to know: a few MiB at most.
func LongZstdFrame(blob io.Reader) (bool, error) {
	scan := zstdScanner{br: bufio.NewReaderSize(blob, 64<<10)}
	for {
		skippable, err := scan.next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if !skippable {
			break
		}
		if _, err := io.Copy(io.Discard, &scan); err != nil {
			return false, err
		}
	}
	head, err := scan.br.Peek(zstdMaxHeader)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	var header zstd.Header
	if err := header.Decode(head); err != nil {
		return false, fmt.Errorf("%w: %w", errZstd, err)
	}
	if header.HasFCS {
		return header.FrameContentSize > maxSeekableFrame, nil
	}
	// Every block but the last is full, or a little less where an encoder splits blocks: the
	// length of a frame in blocks is as good as that in bytes.
	for range maxSeekableFrame/maxZstdBlock + 1 {
		if err := scan.skipBlock(); errors.Is(err, io.EOF) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	return true, nil
}
