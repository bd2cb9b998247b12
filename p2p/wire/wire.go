// Package wire is the frame format of the protocol /brisk/block/1, by which a
// node reads blocks, small content-addressed objects and hints from another.
//
// A stream carries frames in both directions. Each begins with a header of
// exactly [HeaderSize] bytes, little-endian, followed by Length bytes of payload:
//
//	offset  size  field
//	     0     1  Version  always 1
//	     1     1  Type
//	     2     1  Class    0 read, 1 head, 2 tail, 3 fill
//	     3     1  Status   of an END, else 0
//	     4     4  Length   of the payload in bytes, at most 262144
//	     8     8  ID       of the request, chosen by who asks; unique in its stream
//	    16     4  First    block number, or chunk number of an object
//	    20     4  Count    blocks from First on that Mask speaks of, at most 64
//	    24     4  Millis   patience of the asker (0: none said), or when to ask
//	                       again after BUSY
//	    28     4  Flags    bit 0 of an OBJECT asks for a hint, see [FlagHint]; others
//	                       are sent as 0 and ignored when received
//	    32     8  Mask     bit i stands for block First+i
//	    40     8  Size     of an object in bytes, or the largest size accepted
//
// The one who opened the stream sends WANT, OBJECT and CANCEL. The other answers
// a WANT with a BLOCK for each block it holds, an OBJECT with CHUNKs in ascending
// order, and ends every request, cancelled ones too, with exactly one END.
// Requests are pipelined; answers to different requests may interleave in any
// order. docs/p2p-protocol.md is the whole specification.
//
// The package only encodes, decodes and checks single frames. It allocates
// nothing that a peer decides on.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// Protocol is the name under which the stream protocol is negotiated. A change
	// that an older node would misread gets a new name.
	Protocol = "/brisk/block/1"
	// Version is the first byte of every header.
	Version = 1
	// HeaderSize is the length of a header in bytes.
	HeaderSize = 48
	// MaxPayload is the largest payload in bytes: one block. No frame makes its
	// receiver hold more than that.
	MaxPayload = block.Size
	// MaxBlocks is how many blocks one WANT can name: the bits of Mask.
	MaxBlocks = 64
	// MaxOpen is how many requests one stream may have that have not ended,
	// cancelled ones included. One more breaks the protocol.
	MaxOpen = 256
	// MaxHint is the largest hint in bytes.
	MaxHint = 1 << 20
	// FlagHint in Flags of an OBJECT asks for a hint: the payload is a name made by
	// [HintName], and what is sent is not verified. A node that does not know the flag
	// looks for an object with that digest and has none.
	FlagHint uint32 = 1
	// RequestSize is the length in bytes of a WANT or OBJECT frame: a header and
	// the digest that names the layer or the object.
	RequestSize = HeaderSize + len(block.Digest{})
)

// ErrMalformed means that a frame violates the protocol. What follows it in the
// stream cannot be trusted to be framed, so the stream must be reset.
var ErrMalformed = errors.New("malformed frame")

// Type is the type of a frame.
type Type uint8

// The types of frames. Those below 16 are sent by the asking side.
const (
	TypeWant   Type = 1  // asks for blocks of a layer stream; payload: the stream ID
	TypeObject Type = 2  // asks for an object; payload: its digest
	TypeCancel Type = 3  // ends request ID
	TypeBlock  Type = 16 // one block; payload: its bytes
	TypeChunk  Type = 17 // one part of an object; payload: its bytes
	TypeEnd    Type = 18 // the last frame of a request
)

// Status is how a request ended.
type Status uint8

// The ways a request can end. In each, Mask of the END holds the blocks that were
// asked for and not sent.
const (
	StatusDone      Status = 0 // everything was sent
	StatusMissing   Status = 1 // the blocks of Mask, or the object, are not held
	StatusBusy      Status = 2 // the queue is too long; ask again after Millis
	StatusCancelled Status = 3 // by a CANCEL
	StatusExpired   Status = 4 // the asker's patience ran out first
	StatusFailed    Status = 5 // they should be held but could not be read
	StatusRefused   Status = 6 // the object is larger than the asker accepts
)

// String names the status as metrics and messages do.
func (s Status) String() string {
	switch s {
	case StatusDone:
		return "done"
	case StatusMissing:
		return "missing"
	case StatusBusy:
		return "busy"
	case StatusCancelled:
		return "cancelled"
	case StatusExpired:
		return "expired"
	case StatusFailed:
		return "failed"
	case StatusRefused:
		return "refused"
	default:
		return fmt.Sprintf("status %d", uint8(s))
	}
}

// Header is a decoded frame header. The package comment describes the fields.
type Header struct {
	Type   Type
	Class  block.Class
	Status Status
	Length uint32
	ID     uint64
	First  uint32
	Count  uint32
	Millis uint32
	Flags  uint32
	Mask   uint64
	Size   uint64
}

// Append appends the encoded header to b.
func (h Header) Append(b []byte) []byte {
	b = append(b, Version, byte(h.Type), byte(h.Class), byte(h.Status))
	b = binary.LittleEndian.AppendUint32(b, h.Length)
	b = binary.LittleEndian.AppendUint64(b, h.ID)
	b = binary.LittleEndian.AppendUint32(b, h.First)
	b = binary.LittleEndian.AppendUint32(b, h.Count)
	b = binary.LittleEndian.AppendUint32(b, h.Millis)
	b = binary.LittleEndian.AppendUint32(b, h.Flags)
	b = binary.LittleEndian.AppendUint64(b, h.Mask)
	return binary.LittleEndian.AppendUint64(b, h.Size)
}

// Decode reads and checks a header. Every error wraps [ErrMalformed].
func Decode(b *[HeaderSize]byte) (Header, error) {
	if b[0] != Version {
		return Header{}, fmt.Errorf("%w: version %d, want %d", ErrMalformed, b[0], Version)
	}
	h := Header{
		Type:   Type(b[1]),
		Class:  block.Class(b[2]),
		Status: Status(b[3]),
		Length: binary.LittleEndian.Uint32(b[4:]),
		ID:     binary.LittleEndian.Uint64(b[8:]),
		First:  binary.LittleEndian.Uint32(b[16:]),
		Count:  binary.LittleEndian.Uint32(b[20:]),
		Millis: binary.LittleEndian.Uint32(b[24:]),
		Flags:  binary.LittleEndian.Uint32(b[28:]),
		Mask:   binary.LittleEndian.Uint64(b[32:]),
		Size:   binary.LittleEndian.Uint64(b[40:]),
	}
	if err := h.check(); err != nil {
		return Header{}, fmt.Errorf("%w: type %d: %w", ErrMalformed, h.Type, err)
	}
	return h, nil
}

func (h Header) check() error {
	if h.Class > block.ClassFill {
		return fmt.Errorf("class %d is not known", h.Class)
	}
	switch h.Type {
	case TypeWant:
		if err := h.wantLength(uint32(len(block.Digest{}))); err != nil {
			return err
		}
		return h.checkMask()
	case TypeObject:
		return h.wantLength(uint32(len(block.Digest{})))
	case TypeCancel, TypeEnd:
		return h.wantLength(0)
	case TypeBlock, TypeChunk:
		if h.Length == 0 || h.Length > MaxPayload {
			return fmt.Errorf("payload of %d bytes, want 1 to %d", h.Length, MaxPayload)
		}
		return nil
	default:
		return errors.New("type is not known")
	}
}

func (h Header) wantLength(n uint32) error {
	if h.Length != n {
		return fmt.Errorf("payload of %d bytes, want %d", h.Length, n)
	}
	return nil
}

// checkMask makes sure that what is asked for lies within Count blocks, and that
// their numbers do not wrap around.
func (h Header) checkMask() error {
	switch {
	case h.Count == 0 || h.Count > MaxBlocks:
		return fmt.Errorf("%d blocks, want 1 to %d", h.Count, MaxBlocks)
	case h.Mask == 0 || bits.Len64(h.Mask) > int(h.Count):
		return fmt.Errorf("mask %#x does not fit %d blocks", h.Mask, h.Count)
	case h.First+h.Count < h.First:
		return fmt.Errorf("block numbers from %d on overflow", h.First)
	}
	return nil
}

// Read reads one header from r using buf. It returns [io.EOF] as it is when the
// stream ends between two frames.
func Read(r io.Reader, buf *[HeaderSize]byte) (Header, error) {
	if _, err := io.ReadFull(r, buf[:]); err != nil {
		return Header{}, err
	}
	return Decode(buf)
}

// ReadDigest reads the payload of a WANT or an OBJECT.
func ReadDigest(r io.Reader) (block.Digest, error) {
	var d block.Digest
	_, err := io.ReadFull(r, d[:])
	return d, err
}

// Request encodes a WANT or an OBJECT for what digest names; Length is filled in.
func Request(h Header, digest block.Digest) []byte {
	h.Length = uint32(len(digest))
	return append(h.Append(make([]byte, 0, RequestSize)), digest[:]...)
}

// IsHint reports whether a request asks for a hint.
func (h Header) IsHint() bool { return h.Type == TypeObject && h.Flags&FlagHint != 0 }

// HintName names what one kind of hints says of subject. No object has that digest.
func HintName(kind string, subject block.Digest) block.Digest {
	return block.Sum(append([]byte("brisk hint "+kind+"\n"), subject[:]...))
}

// Wait returns Millis as a duration.
func (h Header) Wait() time.Duration { return time.Duration(h.Millis) * time.Millisecond }

// Millis encodes a duration for a header: rounded up, so that a positive one
// never turns into 0, and cut at about 49 days.
func Millis(d time.Duration) uint32 {
	ms := (max(d, 0) + time.Millisecond - 1) / time.Millisecond
	return uint32(min(ms, 1<<32-1))
}
