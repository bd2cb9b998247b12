package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/internal/block"
)

// ReadTable reads the table off the beginning of a blob. It must have the size and the
// digest that the descriptor of the bundle says. The encoded table is returned as well.
func ReadTable(blob io.Reader, size int64, digest block.Digest) (t *Table, encoded []byte, err error) {
	if size < skippableHeader || size > MaxTable {
		return nil, nil, fmt.Errorf("reading the table of a bundle: %d bytes, the limit is %d", size, MaxTable)
	}
	// It grows with what arrives, whatever the descriptor says.
	var buf bytes.Buffer
	if n, err := buf.ReadFrom(io.LimitReader(blob, size)); err != nil || n < size {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return nil, nil, fmt.Errorf("reading the table of a bundle: %w", err)
	}
	encoded = buf.Bytes()
	if got := block.Sum(encoded); got != digest {
		return nil, nil, fmt.Errorf("reading the table of a bundle: %w: its digest is %s, not %s", block.ErrCorrupt, got.Short(), digest.Short())
	}
	t, err = ParseTable(encoded)
	return t, encoded, err
}

// Decoder decodes frames. It is safe for concurrent use. Close it.
type Decoder struct {
	zstd *zstd.Decoder
}

// NewDecoder returns a decoder for at most parallel frames at a time.
func NewDecoder(parallel int) (*Decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(parallel), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(MaxFrameSize), zstd.WithDecoderMaxWindow(MaxFrameSize), zstd.WithDecodeAllCapLimit(true),
		zstd.IgnoreChecksum(true)) // the digest is checked
	if err != nil {
		return nil, fmt.Errorf("decoding bundles: %w", err)
	}
	return &Decoder{dec}, nil
}

// Close frees what the decoder holds. It must not be in use.
func (d *Decoder) Close() { d.zstd.Close() }

// Decode returns the content of frame i, verified. It is written to buf if that is large
// enough. A wrong frame is an error that wraps [block.ErrCorrupt].
func (d *Decoder) Decode(t *Table, i int, stored, buf []byte) ([]byte, error) {
	want := t.FrameLength(i)
	if int64(cap(buf)) < want {
		buf = make([]byte, 0, want)
	}
	raw, err := d.zstd.DecodeAll(stored, buf[:0:want])
	switch {
	case err != nil:
		return nil, fmt.Errorf("decoding frame %d of a bundle: %w: %w", i, block.ErrCorrupt, err)
	case block.Sum(raw) != t.Frames[i].Digest:
		return nil, fmt.Errorf("decoding frame %d of a bundle: %w: wrong digest", i, block.ErrCorrupt)
	}
	return raw, nil
}

// ReadFrames calls each with the stored bytes of the frames from first on, while they arrive in
// blob, which is at the beginning of that frame. The bytes are each's to keep. What follows
// the last frame is not read.
func (t *Table) ReadFrames(blob io.Reader, first int, each func(i int, stored []byte) error) error {
	for i := first; i < len(t.Frames); i++ {
		stored := make([]byte, t.Frames[i].Stored)
		if _, err := io.ReadFull(blob, stored); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("reading frame %d of a bundle: %w", i, err)
		}
		if err := each(i, stored); err != nil {
			return err
		}
	}
	return nil
}
