package gzran

import (
	"encoding/binary"
	"errors"
	"io"
)

const (
	// inSize is the length of the input buffer: large enough that moving the few
	// bytes left over to its front costs nothing.
	inSize = 64 << 10
	// maxEmptyReads is how often in a row a reader may return nothing at all.
	maxEmptyReads = 100
)

// input reads bits from a stream and knows where it is. The bits after the lowest
// nbits ones of acc are either zero or the ones that follow in the stream.
type input struct {
	src   io.Reader
	acc   uint64
	nbits uint // valid bits in acc, at most 63
	pos   int  // next byte of buf to go into acc
	end   int  // end of the bytes in buf
	base  int64
	err   error // why there is no more input, io.EOF included
	buf   [inSize]byte
}

func (in *input) start(src io.Reader, offset int64) {
	in.src, in.base, in.err = src, offset, nil
	in.pos, in.end = 0, 0
	in.acc, in.nbits = 0, 0
}

// bitPos is the offset in bits in the gzip stream of the next bit.
func (in *input) bitPos() int64 { return (in.base+int64(in.pos))*8 - int64(in.nbits) }

// offset is the offset in bytes in the gzip stream of the next bit.
func (in *input) offset() int64 { return in.bitPos() / 8 }

// fill makes room and reads once more. It reports whether there are new bytes.
func (in *input) fill() bool {
	if in.err != nil {
		return false
	}
	// Up to seven bytes that wait in acc stay in buf, so that align can return them.
	if cut := in.pos - 8; cut > 0 {
		copy(in.buf[:], in.buf[cut:in.end])
		in.base += int64(cut)
		in.end -= cut
		in.pos = 8
	}
	for range maxEmptyReads {
		n, err := in.src.Read(in.buf[in.end:])
		in.end += n
		in.err = err
		if n > 0 || err != nil {
			return n > 0
		}
	}
	in.err = io.ErrNoProgress
	return false
}

// refill brings acc to 56 bits or more, or to all bits that are left.
func (in *input) refill() {
	for in.nbits < 56 {
		if in.end-in.pos >= 8 {
			in.acc |= binary.LittleEndian.Uint64(in.buf[in.pos:]) << (in.nbits & 63)
			in.pos += int(63-in.nbits) >> 3
			in.nbits |= 56
			return
		}
		if in.pos == in.end && !in.fill() {
			return
		}
		in.acc |= uint64(in.buf[in.pos]) << (in.nbits & 63)
		in.pos++
		in.nbits += 8
	}
}

// peek makes n bits available in acc, n at most 56.
func (in *input) peek(n uint) error {
	if in.nbits < n {
		in.refill()
		if in.nbits < n {
			return in.short("input ends inside a member")
		}
	}
	return nil
}

// take reads the next n bits, n at most 56.
func (in *input) take(n uint) (uint64, error) {
	if err := in.peek(n); err != nil {
		return 0, err
	}
	v := in.acc & (1<<n - 1)
	in.skip(n)
	return v, nil
}

// skip drops n bits that acc is known to hold.
func (in *input) skip(n uint) {
	in.acc >>= n & 63
	in.nbits -= n
}

// align drops the rest of a byte that was begun and gives the whole bytes that
// wait in acc back to buf.
func (in *input) align() {
	in.pos -= int(in.nbits >> 3)
	in.acc, in.nbits = 0, 0
}

// more makes at least n bytes available in buf, of which there may be fewer at
// the end of the input. It must follow align.
func (in *input) more(n int) []byte {
	for in.end-in.pos < n {
		if !in.fill() {
			break
		}
	}
	return in.buf[in.pos:in.end]
}

// drain reads src to its end and returns how many bytes were left.
func (in *input) drain() (int64, error) {
	var n int64
	for {
		n += int64(in.end - in.pos)
		in.pos = in.end
		if !in.fill() {
			break
		}
	}
	if !errors.Is(in.err, io.EOF) {
		return n, in.short("reading what follows the last member")
	}
	return n, nil
}

// short is the error for input that is needed and is not there.
func (in *input) short(reason string) error {
	err := in.err
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &StreamError{Offset: in.base + int64(in.end), Reason: reason, Err: err}
}

// corrupt is the error for input that breaks the format at the next bit.
func (in *input) corrupt(reason string) error {
	return &StreamError{Offset: in.offset(), Reason: reason, Err: ErrCorrupt}
}
