package gzran

import (
	"bytes"
	"hash/crc32"
)

// The header of a gzip member: magic number, method, flags, 4 bytes of time, extra
// flags and system, then what the flags announce.
const (
	magic1        = 0x1f
	magic2        = 0x8b
	methodDeflate = 8
	headerSize    = 10

	flagHeaderSum = 1 << 1
	flagExtra     = 1 << 2
	flagName      = 1 << 3
	flagComment   = 1 << 4
)

// hasMagic reports whether b, not empty, begins like a member does.
func hasMagic(b []byte) bool {
	return b[0] == magic1 && (len(b) == 1 || b[1] == magic2)
}

// header reads the parts of a member's header and sums them up.
type header struct {
	*input
	sum uint32
}

// readHeader reads the header of a member. Names and comments may be of any
// length: they are not kept.
func (in *input) readHeader() error {
	h := header{input: in}
	b := in.more(headerSize)
	if len(b) > 0 && !hasMagic(b) || len(b) > 2 && b[2] != methodDeflate {
		return in.corrupt("no gzip header")
	}
	if len(b) < headerSize {
		return in.short("input ends in the header of a member")
	}
	flags := b[3]
	h.drop(headerSize)
	if flags&flagExtra != 0 {
		if err := h.skipExtra(); err != nil {
			return err
		}
	}
	for _, flag := range [...]byte{flagName, flagComment} {
		if flags&flag != 0 {
			if err := h.skipText(); err != nil {
				return err
			}
		}
	}
	if flags&flagHeaderSum != 0 {
		return h.checkSum()
	}
	return nil
}

// drop takes n bytes that are in the buffer.
func (h *header) drop(n int) {
	h.sum = crc32.Update(h.sum, crc32.IEEETable, h.buf[h.pos:h.pos+n])
	h.pos += n
}

// skipExtra skips the extra field: two bytes of length, then as many bytes.
func (h *header) skipExtra() error {
	b := h.more(2)
	if len(b) < 2 {
		return h.short("input ends in the header of a member")
	}
	left := int(b[0]) | int(b[1])<<8
	h.drop(2)
	for left > 0 {
		b = h.more(1)
		if len(b) == 0 {
			return h.short("input ends in the header of a member")
		}
		n := min(left, len(b))
		h.drop(n)
		left -= n
	}
	return nil
}

// skipText skips a text that ends with a zero byte.
func (h *header) skipText() error {
	for {
		b := h.more(1)
		if len(b) == 0 {
			return h.short("input ends in the header of a member")
		}
		if i := bytes.IndexByte(b, 0); i >= 0 {
			h.drop(i + 1)
			return nil
		}
		h.drop(len(b))
	}
}

// checkSum compares the checksum of the header that the header itself carries.
func (h *header) checkSum() error {
	b := h.more(2)
	if len(b) < 2 {
		return h.short("input ends in the header of a member")
	}
	if uint16(b[0])|uint16(b[1])<<8 != uint16(h.sum) {
		return h.corrupt("checksum of the header does not match")
	}
	h.pos += 2
	return nil
}
