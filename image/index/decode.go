package index

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Decode decodes count frames from frame first on. blob delivers the stored bytes
// from the first frame's BlobOffset to the end of the last frame; bytes after
// that are not read. The result yields exactly the bytes of the frames in the
// layer stream. When blob ends early or is corrupt, reading ends with an error,
// never with io.EOF. The bytes are not verified: their digests are those of
// [Layer.BlockDigest].
//
// The result is for one goroutine and must be closed. Closing it leaves blob open.
// The window of the first frame has to be local; [Layer.DecodeFrom] takes one that is not.
func (l *Layer) Decode(first, count int, blob io.Reader) (io.ReadCloser, error) {
	if first < 0 || first >= l.FrameCount() {
		return nil, fmt.Errorf("decoding from frame %d on of a layer with %d", first, l.FrameCount())
	}
	window, err := l.Window(first)
	if err != nil {
		return nil, err
	}
	return l.DecodeFrom(window, first, count, blob)
}

// DecodeFrom is [Layer.Decode] with the window of the first frame, nil where it has none.
func (l *Layer) DecodeFrom(window []byte, first, count int, blob io.Reader) (io.ReadCloser, error) {
	if first < 0 || count <= 0 || count > l.FrameCount()-first {
		return nil, fmt.Errorf("decoding %d frames from frame %d on of a layer with %d", count, first, l.FrameCount())
	}
	from, err := l.Frame(first)
	if err != nil {
		return nil, err
	}
	last, err := l.Frame(first + count - 1)
	if err != nil {
		return nil, err
	}
	d := &decoder{
		in:    &io.LimitedReader{R: blob, N: last.BlobOffset + last.BlobLength - from.BlobOffset},
		left:  last.StreamOffset + last.StreamLength - from.StreamOffset,
		first: first,
	}
	switch l.info.compression {
	case CompressionGzip:
		d.out, err = l.resumeGzip(first, window, d.in)
	case CompressionZstd:
		d.out, err = l.resumeZstd(d.in)
	default:
		d.out = io.NopCloser(d.in)
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// decoder yields left bytes of out.
type decoder struct {
	in    *io.LimitedReader
	out   io.ReadCloser
	left  int64
	first int
}

// Read implements [io.Reader].
func (d *decoder) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	n, err := d.out.Read(p[:min(int64(len(p)), d.left)])
	d.left -= int64(n)
	if err == nil || d.left == 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("decoding frames from frame %d on, %d bytes short: %w", d.first, d.left, err)
}

// Close implements [io.Closer].
func (d *decoder) Close() error {
	d.left = 0
	return d.out.Close()
}

// resumeZstd decodes frames, of which blob holds nothing else.
func (l *Layer) resumeZstd(blob io.Reader) (io.ReadCloser, error) {
	dec, ok := l.zstd.Get().(*zstd.Decoder)
	if !ok {
		var err error
		if dec, err = newZstdDecoder(nil); err != nil {
			return nil, err
		}
	}
	if err := dec.Reset(blob); err != nil {
		dec.Close()
		return nil, fmt.Errorf("starting to decode zstd: %w", err)
	}
	return &pooled{Decoder: dec, pool: &l.zstd}, nil
}

// pooled is a zstd decoder that goes back to where it came from.
type pooled struct {
	*zstd.Decoder

	pool *sync.Pool
}

// Close implements [io.Closer].
func (p *pooled) Close() error {
	if p.Decoder == nil {
		return nil
	}
	dec := p.Decoder
	p.Decoder = nil
	if err := dec.Reset(nil); err != nil {
		dec.Close()
		return fmt.Errorf("ending to decode zstd: %w", err)
	}
	p.pool.Put(dec)
	return nil
}
