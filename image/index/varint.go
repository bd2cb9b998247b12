package index

import "encoding/binary"

// cursor reads numbers and strings from untrusted bytes. After the first
// problem it returns zero values and remembers the problem in bad.
type cursor struct {
	b   []byte
	bad bool
}

// uvarint reads an unsigned number of at most limit.
func (c *cursor) uvarint(limit uint64) uint64 {
	if len(c.b) > 0 && c.b[0] < 0x80 && uint64(c.b[0]) <= limit {
		v := uint64(c.b[0])
		c.b = c.b[1:]
		return v
	}
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > limit {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

// count reads an unsigned number of at most limit, a length or a count.
func (c *cursor) count(limit int) int { return int(c.uvarint(uint64(limit))) }

// offset reads an unsigned number of at most limit, a position or a size.
func (c *cursor) offset(limit int64) int64 { return int64(c.uvarint(uint64(limit))) }

// word reads an unsigned number of 32 bits.
func (c *cursor) word() uint32 { return uint32(c.uvarint(1<<32 - 1)) }

// varint reads a signed number in zigzag encoding.
func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

// bytes takes the next n bytes. They alias the input.
func (c *cursor) bytes(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.fail()
		return nil
	}
	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}

// prefixed takes bytes whose length, at most limit, stands before them.
func (c *cursor) prefixed(limit int) []byte { return c.bytes(c.count(limit)) }

func (c *cursor) fail() { c.bad, c.b = true, nil }
