package registry

import (
	"errors"
	"io"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// chunks reads the frames of a piece to their end and hands on what they hold, one
// block or part of a block at a time.
func (s *Source) chunks(decoded io.Reader, p piece, each func(at int64, data []byte) error) error {
	buf, ok := s.buffers.Get().(*[block.Size]byte)
	if !ok {
		buf = new([block.Size]byte)
	}
	defer s.buffers.Put(buf)
	for at := p.off; at < p.end; {
		n := min(block.Size-at%block.Size, p.end-at)
		if _, err := io.ReadFull(decoded, buf[:n]); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err := each(at, buf[:n]); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// add takes the bytes of the layer stream from at on, which lie in one block.
func (d *delivery) add(at int64, data []byte) error {
	i := uint32(at / block.Size)
	offset := int(at % block.Size)
	if offset == 0 && len(data) == block.Length(d.layer.StreamSize(), i) {
		return d.block(i, data)
	}
	return d.part(i, offset, data)
}

// keepHead keeps the beginning of the block in which the frames of a fetch ended.
// A reader that goes on from there then need not have the frame again: with frames
// of 1 MiB that would be a quarter more for every extent.
func (s *Source) keepHead(d *delivery) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, p := range d.partials {
		if p.start == 0 && p.end > 0 {
			s.heads.Add(block.Key{Layer: d.want.Layer, Index: i}, p.data[:p.end])
		}
	}
}

// useHead returns from where on the layer stream is needed for a range, which is
// after the beginning of its first block if that was kept. Heads are not
// verified, so each is used once: after a wrong one everything is read anew.
func (s *Source) useHead(layer *index.Layer, want block.Range, d *delivery) int64 {
	key := want.Key(0)
	start := key.Offset()
	head, ok := s.heads.Peek(key)
	if !ok {
		return start
	}
	s.heads.Remove(key)
	next := start + int64(len(head))
	i, err := layer.FrameAt(next)
	if err != nil {
		return start
	}
	// Another blob of the same layer stream has its frames elsewhere.
	if frame, err := layer.Frame(i); err != nil || frame.StreamOffset != next {
		return start
	}
	if err := d.part(key.Index, 0, head); err != nil {
		return start
	}
	return next
}
