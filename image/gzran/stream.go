package gzran

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// trailerSize is the length in bytes of the checksum and size after a member.
const trailerSize = 8

// stream decodes the members of a gzip stream one after another.
type stream struct {
	inflater

	rec      *recorder // nil when no checkpoints are wanted
	outBase  int64     // offset in the uncompressed stream of out[0]
	lead     uint      // bits to drop before anything else
	inMember bool
	members  int   // members that have been completed
	inEnd    int64 // offset in the gzip stream of the end of the last of them

	checked bool   // the member was decoded from its start, so its checksum is known
	sum     uint32 // checksum of the member's output before out[summed]
	size    uint32 // length of that output modulo 4 GiB
	summed  int

	counts   bool  // read what follows the last member, in order to count it
	trailing int64 // bytes that follow the last member
	fail     error
}

// reset prepares a stream, which may have been used before, to read r from the
// start of a member at the offsets in and out.
func (s *stream) reset(r io.Reader, in, out int64) {
	s.start(r, in)
	s.op, s.floor, s.outBase = windowSize, windowSize, out-windowSize
	s.track, s.stored, s.huffman, s.final, s.fixed = nil, 0, false, false, false
	s.rec, s.lead, s.inMember, s.members, s.inEnd = nil, 0, false, 0, in
	s.checked, s.sum, s.size, s.summed = false, 0, 0, windowSize
	s.counts, s.trailing, s.fail = false, 0, nil
	if s.syms.lit[endOfBlock] == 0 {
		s.syms.init()
	}
}

// next decodes until out is full or the stream ends. The bytes it returns are
// valid until the next call. An error, [io.EOF] included, comes alone, after all
// bytes before it.
func (s *stream) next() ([]byte, error) {
	s.slide()
	begin := s.op
	for s.fail == nil && s.op < outFull {
		s.fail = s.step()
	}
	s.addSum()
	if s.op == begin {
		return nil, s.fail
	}
	return s.out[begin:s.op], nil
}

// slide moves the window to the front of out.
func (s *stream) slide() {
	cut := s.op - windowSize
	if cut <= 0 {
		return
	}
	copy(s.out[:], s.out[cut:s.op])
	s.op -= cut
	s.summed -= cut
	s.floor = max(0, s.floor-cut)
	s.outBase += int64(cut)
	if s.track != nil {
		s.track.start -= cut
	}
}

// step goes on with whatever the stream is in the middle of.
func (s *stream) step() error {
	switch {
	case s.track.expired(s.op):
		return s.rec.settle(&s.inflater)
	case !s.inMember:
		return s.beginMember()
	case s.stored > 0 || s.huffman:
		return s.runBlock()
	case s.final:
		return s.endMember()
	case s.lead > 0:
		_, err := s.take(s.lead)
		s.lead = 0
		return err
	}
	if s.rec != nil {
		s.rec.atBlock(&s.inflater, s.outBase+int64(s.op))
	}
	return s.beginBlock()
}

// beginMember reads the header of the next member, or finds that there is none.
func (s *stream) beginMember() error {
	b := s.more(2)
	if s.members > 0 {
		switch {
		case len(b) == 0 && errors.Is(s.err, io.EOF):
			return io.EOF
		case len(b) > 0 && !hasMagic(b):
			return s.skipTrailing()
		}
	}
	in := s.base + int64(s.pos)
	if err := s.readHeader(); err != nil {
		return err
	}
	s.rec.atMember(in, s.outBase+int64(s.op))
	s.inMember, s.final = true, false
	s.floor = s.op
	s.checked, s.sum, s.size, s.summed = true, 0, 0, s.op
	return nil
}

// skipTrailing ends the stream before bytes that are no member.
func (s *stream) skipTrailing() error {
	if !s.counts {
		return io.EOF
	}
	n, err := s.drain()
	s.trailing = n
	if err != nil {
		return err
	}
	return io.EOF
}

// endMember reads the trailer of a member and checks what it has decoded.
func (s *stream) endMember() error {
	if err := s.rec.settle(&s.inflater); err != nil {
		return err
	}
	s.align()
	b := s.more(trailerSize)
	if len(b) < trailerSize {
		return s.short("input ends in the trailer of a member")
	}
	s.addSum()
	if s.checked {
		if binary.LittleEndian.Uint32(b) != s.sum {
			return s.corrupt("checksum of the member does not match")
		}
		if binary.LittleEndian.Uint32(b[4:]) != s.size {
			return s.corrupt("length of the member does not match")
		}
	}
	s.pos += trailerSize
	s.members++
	s.inMember = false
	s.inEnd = s.base + int64(s.pos)
	return nil
}

// addSum brings the checksum of the member up to date.
func (s *stream) addSum() {
	if s.checked {
		s.sum = crc32.Update(s.sum, crc32.IEEETable, s.out[s.summed:s.op])
		s.size += uint32(s.op - s.summed)
	}
	s.summed = s.op
}
