package gzran

import "math/bits"

// A table entry is a uint32 that holds all a decoder needs to know of one symbol:
//
//	bits 0-5    bits to consume: the code and the extra bits that follow it
//	bits 8-11   bits of the code alone, where the extra bits begin
//	bit  13     end of block
//	bit  14     link to a subtable: bits 8-11 are its index width
//	bit  15     exceptional: end of block, link, or no symbol at all
//	bits 16-30  literal byte, base of a length or distance, or start of the subtable
//	bit  31     literal
const (
	entryEnd     = 1 << 13
	entryLink    = 1 << 14
	entryExcept  = 1 << 15
	entryLiteral = 1 << 31
	entryInvalid = entryExcept

	entryCodeShift  = 8
	entryValueShift = 16
	entryValueMask  = 0x7fff
)

const (
	maxCodeBits = 15  // longest code of a literal, length or distance
	maxLitSyms  = 286 // literals, end of block and lengths that may occur
	maxDistSyms = 30  // distances that may occur
	maxPreSyms  = 19  // symbols of the code that describes the other two codes
	endOfBlock  = 256

	// Widths of the primary tables. A code of at most 286 symbols and 15 bits needs
	// at most 2,342 entries at 11 bits, one of 30 symbols 402 at 8 bits; the table
	// sizes are the next powers of two so that a masked index needs no bounds check.
	litBits      = 11
	distBits     = 8
	preBits      = 7
	litTableLen  = 4096
	distTableLen = 512
)

// preOrder is the order in which the lengths of the code length code are stored.
const preOrder = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"

// symbols holds the entries of all symbols before the lengths of their codes are
// added. It never changes once made.
type symbols struct {
	lit  [288]uint32
	dist [32]uint32
	pre  [maxPreSyms]uint32
}

func (s *symbols) init() {
	for i := range uint32(endOfBlock) {
		s.lit[i] = entryLiteral | i<<entryValueShift
	}
	s.lit[endOfBlock] = entryExcept | entryEnd
	for i := range uint32(29) {
		base, extra := i+3, uint32(0)
		switch {
		case i == 28:
			base = maxMatch
		case i >= 8:
			extra = i>>2 - 1
			base = (4+i&3)<<extra + 3
		}
		s.lit[endOfBlock+1+i] = base<<entryValueShift | extra
	}
	s.lit[286], s.lit[287] = entryInvalid, entryInvalid
	for i := range uint32(maxDistSyms) {
		base, extra := i+1, uint32(0)
		if i >= 4 {
			extra = i>>1 - 1
			base = (2+i&1)<<extra + 1
		}
		s.dist[i] = base<<entryValueShift | extra
	}
	s.dist[30], s.dist[31] = entryInvalid, entryInvalid
	for i := range s.pre {
		s.pre[i] = uint32(i) << entryValueShift
	}
}

// code is a canonical Huffman code on its way into a decoding table.
type code struct {
	count   [maxCodeBits + 1]int // codes of each length
	longest int
	sorted  [288]uint16 // symbols by length of code, then by number
}

// scan sorts the symbols by the lengths of their codes. It reports false when the
// lengths make no prefix code, or one that leaves bit patterns without a symbol.
// As everywhere, one lone code of one bit and no code at all are accepted.
func (c *code) scan(lens []uint8) (complete, ok bool) {
	c.count = [maxCodeBits + 1]int{}
	for _, n := range lens {
		c.count[n&maxCodeBits]++
	}
	c.count[0] = 0
	var next [maxCodeBits + 2]int
	left := 1
	c.longest = 0
	for n := 1; n <= maxCodeBits; n++ {
		left = left<<1 - c.count[n]
		if left < 0 {
			return false, false
		}
		next[n+1] = next[n] + c.count[n]
		if c.count[n] > 0 {
			c.longest = n
		}
	}
	for sym, n := range lens {
		if n != 0 {
			c.sorted[next[n&maxCodeBits]] = uint16(sym)
			next[n&maxCodeBits]++
		}
	}
	lone := c.longest == 0 || c.longest == 1 && c.count[1] == 1
	return left == 0, left == 0 || lone
}

// build fills a decoding table whose primary part is indexed by width bits with
// the code of the given lengths. It reports false when the lengths are no code.
func (c *code) build(table []uint32, width int, lens []uint8, syms []uint32) bool {
	complete, ok := c.scan(lens)
	if !ok {
		return false
	}
	if !complete {
		table[0], table[1] = entryInvalid, entryInvalid
	}
	// Codes are read from their first bit on, so a table is indexed by reversed
	// codes: word is one. Appending a 0 bit to a code leaves its reversal unchanged,
	// and a table for one more bit is the table for the shorter codes twice over.
	word, i := 0, 0
	for n := 1; n <= width; n++ {
		size := 1 << n
		if n > 1 {
			copy(table[size/2:size], table[:size/2])
		}
		for range c.count[n] {
			table[word] = syms[c.sorted[i]] + uint32(n<<entryCodeShift+n)
			word = nextReversed(word, size-1)
			i++
		}
	}
	if c.longest > width {
		c.buildSubtables(table, width, syms, word, i)
	}
	return true
}

// buildSubtables places the codes longer than the primary index, the first of
// which is word, the code of the i-th sorted symbol.
func (c *code) buildSubtables(table []uint32, width int, syms []uint32, word, i int) {
	prefix, start, free := -1, 0, 1<<width
	subWidth := 0
	for n := width + 1; n <= c.longest; n++ {
		for left := c.count[n]; left > 0; left-- {
			if p := word & (1<<width - 1); p != prefix {
				prefix, start = p, free
				subWidth = n - width
				for used := left; used < 1<<subWidth; {
					subWidth++
					used = used<<1 + c.count[width+subWidth]
				}
				free += 1 << subWidth
				table[prefix] = entryExcept | entryLink |
					uint32(start<<entryValueShift|subWidth<<entryCodeShift|width)
			}
			entry := syms[c.sorted[i]] + uint32((n-width)<<entryCodeShift+n-width)
			for j := word >> width; j < 1<<subWidth; j += 1 << (n - width) {
				table[start+j] = entry
			}
			word = nextReversed(word, 1<<n-1)
			i++
		}
	}
}

// nextReversed adds one to a reversed code of as many bits as mask has. The code
// of all ones has no successor and is returned as it is.
func nextReversed(word, mask int) int {
	zeros := word ^ mask
	if zeros == 0 {
		return word
	}
	top := 1 << (bits.Len(uint(zeros)) - 1)
	return word&(top-1) | top
}
