package gzran

const (
	windowSize = 32 << 10 // how far back a deflate stream may refer
	maxMatch   = 258
	// copySlack is how many bytes past its end the copying of a match may write.
	copySlack = 32
	// outSize is the length of the output buffer: the window and what one call
	// of next delivers.
	outSize = windowSize + 128<<10
	// outFull is the position from which on no further match is decoded.
	outFull = outSize - maxMatch - copySlack
)

// badDistance is the reason for a distance code that means nothing and for a distance
// to before the start of the member.
const badDistance = "distance out of range"

// inflater decodes deflate blocks. It is one flat struct, buffers and tables
// included, so that the inner loop needs a single base register.
type inflater struct {
	input

	op      int // where in out the next byte goes
	floor   int // first byte of out that the stream may refer to
	track   *tracker
	stored  int  // bytes left of a stored block
	huffman bool // inside a block with Huffman codes
	final   bool // the block is the last one of its member
	fixed   bool // the tables hold the fixed codes
	lit     [litTableLen]uint32
	dist    [distTableLen]uint32
	out     [outSize]byte
	code    code
	syms    symbols
	pre     [1 << preBits]uint32
	lens    [maxLitSyms + maxDistSyms + 4]uint8
}

// beginBlock reads the header of a deflate block.
func (f *inflater) beginBlock() error {
	v, err := f.take(3)
	if err != nil {
		return err
	}
	f.final = v&1 != 0
	switch v >> 1 {
	case 0:
		return f.beginStored()
	case 1:
		f.beginFixed()
	case 2:
		if err := f.beginDynamic(); err != nil {
			return err
		}
	default:
		return f.corrupt("reserved deflate block type")
	}
	f.huffman = true
	return nil
}

func (f *inflater) beginStored() error {
	f.align()
	b := f.more(4)
	if len(b) < 4 {
		return f.short("input ends in the header of a stored block")
	}
	n := int(b[0]) | int(b[1])<<8
	if n^0xffff != int(b[2])|int(b[3])<<8 {
		return f.corrupt("length of a stored block does not match its complement")
	}
	f.pos += 4
	f.stored = n
	return nil
}

// runBlock goes on with the block that was begun.
func (f *inflater) runBlock() error {
	if f.huffman {
		return f.runHuffman()
	}
	return f.runStored()
}

// runStored copies as much of a stored block as out has room for.
func (f *inflater) runStored() error {
	for f.stored > 0 && f.op < outFull && !f.track.expired(f.op) {
		if f.pos == f.end && !f.fill() {
			return f.short("input ends inside a stored block")
		}
		n := min(f.stored, outFull-f.op, f.end-f.pos)
		copy(f.out[f.op:f.op+n], f.buf[f.pos:])
		f.op += n
		f.pos += n
		f.stored -= n
	}
	return nil
}

func (f *inflater) beginFixed() {
	if f.fixed {
		return
	}
	f.fixed = true
	lens := f.lens[:288]
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	f.code.build(f.lit[:], litBits, lens, f.syms.lit[:])
	lens = f.lens[:32]
	for i := range lens {
		lens[i] = 5
	}
	f.code.build(f.dist[:], distBits, lens, f.syms.dist[:])
}

func (f *inflater) beginDynamic() error {
	f.fixed = false
	v, err := f.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, npre := int(v&31)+257, int(v>>5&31)+1, int(v>>10)+4
	if nlit > maxLitSyms || ndist > maxDistSyms {
		return f.corrupt("dynamic block with too many symbols")
	}
	var pre [maxPreSyms]uint8
	for i := range npre {
		n, err := f.take(3)
		if err != nil {
			return err
		}
		pre[preOrder[i]] = uint8(n)
	}
	if !f.code.build(f.pre[:], preBits, pre[:], f.syms.pre[:]) {
		return f.corrupt("code length code is no prefix code")
	}
	lens := f.lens[:nlit+ndist]
	if err := f.readLens(lens); err != nil {
		return err
	}
	if !f.code.build(f.lit[:], litBits, lens[:nlit], f.syms.lit[:]) {
		return f.corrupt("literal and length code is no prefix code")
	}
	if !f.code.build(f.dist[:], distBits, lens[nlit:], f.syms.dist[:]) {
		return f.corrupt("distance code is no prefix code")
	}
	return nil
}

// readLens reads the lengths of the codes of a dynamic block.
func (f *inflater) readLens(lens []uint8) error {
	for i := 0; i < len(lens); {
		// The longest code is 7 bits and has up to 7 more bits behind it.
		if f.nbits < 14 {
			f.refill()
		}
		e := f.pre[f.acc&(1<<preBits-1)]
		if e&entryExcept != 0 {
			return f.corrupt("no such code length")
		}
		if err := f.peek(uint(e & 63)); err != nil {
			return err
		}
		f.skip(uint(e & 63))
		sym := uint8(e >> entryValueShift)
		if sym < 16 {
			lens[i] = sym
			i++
			continue
		}
		n, err := f.repeats(sym)
		if err != nil {
			return err
		}
		if n > len(lens)-i || sym == 16 && i == 0 {
			return f.corrupt("repeated code length out of place")
		}
		var v uint8
		if sym == 16 {
			v = lens[i-1]
		}
		for range n {
			lens[i] = v
			i++
		}
	}
	return nil
}

// repeats reads how often the length before (16) or zero (17, 18) is repeated.
func (f *inflater) repeats(sym uint8) (int, error) {
	width, base := uint(2), 3
	switch sym {
	case 17:
		width = 3
	case 18:
		width, base = 7, 11
	}
	n, err := f.take(width)
	return int(n) + base, err
}

// runHuffman decodes symbols until the block ends, out is full, or the references
// being tracked can reach no further back than the checkpoint.
func (f *inflater) runHuffman() error {
	for f.huffman && f.op < outFull && !f.track.expired(f.op) {
		if f.end-f.pos < fastInput && f.err == nil {
			f.fill()
		}
		if f.track == nil && f.end-f.pos >= fastInput {
			if err := f.fast(); err != nil {
				return err
			}
			if f.op >= outFull {
				return nil
			}
		}
		if err := f.careful(); err != nil {
			return err
		}
	}
	return nil
}

// careful decodes symbol by symbol what fast leaves alone: the last bytes of the
// input, the end of a block, invalid codes, and the output after a checkpoint, of
// which the references have to be recorded. It decodes at least one symbol and
// returns when fast can take over or runHuffman has to look again.
func (f *inflater) careful() error {
	for {
		e, err := f.symbol(f.lit[:], litBits)
		switch {
		case err != nil:
			return err
		case e&entryLiteral != 0:
			f.skip(uint(e & 63))
			f.out[f.op] = byte(e >> entryValueShift)
			f.op++
		case e&entryEnd != 0:
			f.skip(uint(e & 63))
			f.huffman = false
			return nil
		case e&entryExcept != 0:
			return f.corrupt("no such literal or length code")
		default:
			if err := f.match(f.value(e)); err != nil {
				return err
			}
		}
		if f.op >= outFull || f.track.expired(f.op) || f.track == nil && f.end-f.pos >= fastInput {
			return nil
		}
	}
}

// symbol looks the next symbol up. All bits of the symbol are in acc, those that
// lead to its subtable have been dropped.
func (f *inflater) symbol(table []uint32, width uint) (uint32, error) {
	f.refill()
	e := table[f.acc&(1<<width-1)]
	if e&entryLink != 0 && f.nbits >= width {
		f.skip(width)
		e = table[subIndex(e, f.acc)]
	}
	if uint(e&63) > f.nbits {
		return 0, f.short("input ends inside a block")
	}
	return e, nil
}

// value drops the bits of a length or distance and returns it.
func (f *inflater) value(e uint32) int {
	v := entryValue(e, f.acc)
	f.skip(uint(e & 63))
	return v
}

// match reads the distance that belongs to a length and copies.
func (f *inflater) match(n int) error {
	e, err := f.symbol(f.dist[:], distBits)
	if err != nil {
		return err
	}
	if e&entryExcept != 0 {
		return f.corrupt(badDistance)
	}
	d := f.value(e)
	if d > f.op-f.floor {
		return f.corrupt(badDistance)
	}
	if f.track != nil {
		f.track.mark(f.op-d, n)
	}
	f.repeat(f.op, d, n)
	f.op += n
	return nil
}
