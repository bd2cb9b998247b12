package registry

import (
	"errors"
	"io"

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
