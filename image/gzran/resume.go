package gzran

import (
	"fmt"
	"io"
	"sync"
)

// Decoder inflates from checkpoints. It keeps the buffers of the readers that were
// closed, about 250 KB each, for the next ones. The zero value is ready, and a
// Decoder may be used concurrently, as may the readers it returns, each by one
// goroutine at a time.
type Decoder struct {
	pool sync.Pool // of *stream
}

// Resume returns a reader of the output from cp.Out on. r must deliver the gzip
// stream from byte cp.In on. The reader ends with [io.EOF] where the last member
// in r ends; if r ends earlier, the error wraps [io.ErrUnexpectedEOF], after all
// bytes that could be decoded. To read just the span up to a later checkpoint,
// give it the bytes up to that one's InEnd and take the difference of their Outs.
//
// The checkpoint and its window may come from anywhere: a wrong one is an error,
// or yields wrong bytes. The checksum of a member can be checked only if the
// member was read from its start. Close gives the buffers back and must be called
// once; the reader must not be used afterwards.
func (d *Decoder) Resume(r io.Reader, cp Checkpoint) (io.ReadCloser, error) {
	if err := cp.validate(); err != nil {
		return nil, err
	}
	s, ok := d.pool.Get().(*stream)
	if !ok {
		s = new(stream)
	}
	if err := s.resume(r, cp); err != nil {
		d.pool.Put(s)
		return nil, err
	}
	return &resumed{s: s, d: d}, nil
}

// Resume is [Decoder.Resume] of a decoder for this one reader.
func Resume(r io.Reader, cp Checkpoint) (io.ReadCloser, error) {
	return new(Decoder).Resume(r, cp)
}

// resume prepares the stream to read r from a checkpoint on.
func (s *stream) resume(r io.Reader, cp Checkpoint) error {
	s.reset(r, cp.In, cp.Out)
	if cp.Kind == KindMember {
		return nil
	}
	err := s.unpackWindow(cp.Window)
	floor := s.floor
	s.reset(r, cp.In, cp.Out)
	if err != nil {
		return fmt.Errorf("resuming at byte %d: %w", cp.In, err)
	}
	s.floor, s.lead, s.inMember = floor, uint(cp.Bit), true
	return nil
}

// resumed is the reader that Resume returns.
type resumed struct {
	s    *stream
	d    *Decoder
	left []byte
}

// Read implements [io.Reader].
func (z *resumed) Read(p []byte) (int, error) {
	if z.s == nil {
		return 0, io.ErrClosedPipe
	}
	return readFrom(z.s, &z.left, p)
}

// WriteTo implements [io.WriterTo].
func (z *resumed) WriteTo(w io.Writer) (int64, error) {
	return writeAll(func() ([]byte, error) {
		if b := z.left; len(b) > 0 {
			z.left = nil
			return b, nil
		}
		if z.s == nil {
			return nil, io.ErrClosedPipe
		}
		return z.s.next()
	}, w)
}

// Close gives the buffers back to the decoder.
func (z *resumed) Close() error {
	if z.s != nil {
		z.s.src = nil
		z.d.pool.Put(z.s)
		z.s, z.left = nil, nil
	}
	return nil
}
