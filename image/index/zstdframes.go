package index

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Numbers of the zstd format, RFC 8878.
const (
	zstdMagic         = 0xfd2fb528
	skippableMagic    = 0x184d2a50
	skippableMask     = 0xfffffff0
	zstdBlockHeader   = 3
	zstdMaxHeader     = 18
	zstdChecksum      = 4
	zstdLengthAndID   = 8
	blockRaw          = 0
	blockRLE          = 1
	blockCompressed   = 2
	descriptorSingle  = 1 << 5
	descriptorSum     = 1 << 2
	descriptorSizeBit = 6
)

// maxZstdWindow is the largest window in bytes a frame may ask for, the one of
// zstd's --long=27, which is what its decoder accepts unless told otherwise.
const maxZstdWindow = 128 << 20

// Frames of a blob are gathered to frames of the index until they are
// minZstdFrame long, so that a blob with a frame for every file has a short table,
// but not beyond maxZstdFrame, so that a small read decodes little.
const (
	minZstdFrame = 256 << 10
	maxZstdFrame = 1 << 20
)

var errZstd = errors.New("zstd blob corrupt")

// zstdScanner cuts a zstd blob into its frames without decoding them. Between
// two calls of next it reads as one frame.
type zstdScanner struct {
	br    *bufio.Reader
	pos   int64 // offset in the blob of the next byte
	left  int64 // bytes up to the next block header or the end
	state scanState
	sum   bool // a checksum follows the last block
}

type scanState uint8

const (
	scanBlocks scanState = iota // a block header follows
	scanLast                    // the last block has been read
	scanEnd                     // nothing follows
)

// next moves to the next frame and reports whether it is a skippable one. It
// returns io.EOF at the end of the blob. The frame before has been read whole.
func (z *zstdScanner) next() (skippable bool, err error) {
	head, err := z.br.Peek(zstdMaxHeader)
	if len(head) == 0 && errors.Is(err, io.EOF) {
		return false, io.EOF
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if len(head) < zstdLengthAndID && len(head) < 6 {
		return false, fmt.Errorf("zstd frame at byte %d: %w", z.pos, io.ErrUnexpectedEOF)
	}
	word := binary.LittleEndian.Uint32(head)
	if word&skippableMask == skippableMagic {
		if len(head) < zstdLengthAndID {
			return false, fmt.Errorf("zstd frame at byte %d: %w", z.pos, io.ErrUnexpectedEOF)
		}
		z.left = zstdLengthAndID + int64(binary.LittleEndian.Uint32(head[4:]))
		z.state = scanEnd
		return true, nil
	}
	if word != zstdMagic {
		return false, fmt.Errorf("%w: no frame starts at byte %d", errZstd, z.pos)
	}
	z.left = frameHeaderSize(head[4])
	z.state, z.sum = scanBlocks, head[4]&descriptorSum != 0
	return false, nil
}

// frameHeaderSize is the length of magic and header of a frame with that
// descriptor byte.
func frameHeaderSize(descriptor byte) int64 {
	n := int64(5)
	single := descriptor&descriptorSingle != 0
	if !single {
		n++ // window descriptor
	}
	n += [...]int64{0, 1, 2, 4}[descriptor&3] // dictionary number
	content := [...]int64{0, 2, 4, 8}[descriptor>>descriptorSizeBit]
	if single && content == 0 {
		content = 1
	}
	return n + content
}

// Read implements [io.Reader] for the current frame.
func (z *zstdScanner) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for z.left == 0 {
		if err := z.step(); err != nil {
			return 0, err
		}
	}
	n, err := z.br.Read(p[:min(int64(len(p)), z.left)])
	z.left -= int64(n)
	z.pos += int64(n)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("zstd frame ends at byte %d: %w", z.pos, io.ErrUnexpectedEOF)
	}
	return n, err
}

// step goes on to the next part of the frame.
func (z *zstdScanner) step() error {
	switch z.state {
	case scanEnd:
		return io.EOF
	case scanLast:
		z.state = scanEnd
		if z.sum {
			z.left = zstdChecksum
		}
		return nil
	default:
	}
	head, err := z.br.Peek(zstdBlockHeader)
	if len(head) < zstdBlockHeader {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("zstd block at byte %d: %w", z.pos, err)
	}
	word := int64(head[0]) | int64(head[1])<<8 | int64(head[2])<<16
	switch word >> 1 & 3 {
	case blockRaw, blockCompressed:
		z.left = zstdBlockHeader + word>>3
	case blockRLE:
		z.left = zstdBlockHeader + 1
	default:
		return fmt.Errorf("%w: block of unknown type at byte %d", errZstd, z.pos)
	}
	if word&1 != 0 {
		z.state = scanLast
	}
	return nil
}

// zstdReader decodes a zstd blob and records its frames.
type zstdReader struct {
	scan   zstdScanner
	dec    *zstd.Decoder
	inside bool  // a frame is being decoded
	out    int64 // bytes of the stream so far
	start  int64 // offset in the blob of the current frame
	rows   []frameRow
}

func newZstdReader(r io.Reader) (*zstdReader, error) {
	dec, err := newZstdDecoder(nil)
	if err != nil {
		return nil, err
	}
	return &zstdReader{scan: zstdScanner{br: bufio.NewReaderSize(r, 64<<10)}, dec: dec}, nil
}

// newZstdDecoder returns a decoder of layer data in one goroutine.
func newZstdDecoder(r io.Reader) (*zstd.Decoder, error) {
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindow))
	if err != nil {
		return nil, fmt.Errorf("starting to decode zstd: %w", err)
	}
	return dec, nil
}

// Read implements [io.Reader] for the layer stream.
func (z *zstdReader) Read(p []byte) (int, error) {
	for {
		if !z.inside {
			if err := z.nextFrame(); err != nil {
				return 0, err
			}
		}
		n, err := z.dec.Read(p)
		z.out += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			if err := z.endFrame(); err != nil {
				return n, err
			}
		case err != nil:
			return n, fmt.Errorf("decoding the zstd frame at byte %d: %w", z.start, err)
		}
		if n > 0 {
			return n, nil
		}
	}
}

// nextFrame moves to the next frame that holds data.
func (z *zstdReader) nextFrame() error {
	for {
		z.start = z.scan.pos
		skippable, err := z.scan.next()
		if err != nil {
			return err
		}
		if !skippable {
			break
		}
		if _, err := io.Copy(io.Discard, &z.scan); err != nil {
			return err
		}
	}
	if err := z.dec.Reset(&z.scan); err != nil {
		return fmt.Errorf("decoding the zstd frame at byte %d: %w", z.start, err)
	}
	z.inside = true
	z.rows = append(z.rows, frameRow{stream: z.out, blob: z.start})
	return nil
}

// endFrame closes the current frame, and joins it to the one before when both are
// small.
func (z *zstdReader) endFrame() error {
	if _, err := io.Copy(io.Discard, &z.scan); err != nil {
		return err
	}
	z.inside = false
	last := len(z.rows) - 1
	row := &z.rows[last]
	row.blobLength = z.scan.pos - row.blob
	if z.out == row.stream {
		z.rows = z.rows[:last] // an empty frame: nothing is decoded from it
		return nil
	}
	if last == 0 {
		return nil
	}
	before := &z.rows[last-1]
	if row.stream-before.stream < minZstdFrame && z.out-before.stream <= maxZstdFrame {
		before.blobLength = z.scan.pos - before.blob
		z.rows = z.rows[:last]
	}
	if len(z.rows) > MaxFrames {
		return fmt.Errorf("layer has more than %d frames", MaxFrames)
	}
	return nil
}

func (z *zstdReader) close() { z.dec.Close() }

// maxZstdBlock is the most bytes of content that a block of a frame holds.
const maxZstdBlock = 128 << 10

// skipBlock moves over the next block of the current frame, and before that over the frame's header. It returns io.EOF
// at the end of the frame.
func (z *zstdScanner) skipBlock() error {
	if z.state == scanLast && z.left == 0 {
		return io.EOF
	}
	if err := z.skipRest(); err != nil {
		return err
	}
	if err := z.step(); err != nil {
		return err
	}
	return z.skipRest()
}

// skipRest moves over what is left of the part of the frame that has begun.
func (z *zstdScanner) skipRest() error {
	n, err := z.br.Discard(int(z.left))
	z.left -= int64(n)
	z.pos += int64(n)
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("zstd frame ends at byte %d: %w", z.pos, io.ErrUnexpectedEOF)
	}
	return err
}
