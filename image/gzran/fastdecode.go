package gzran

import "encoding/binary"

const (
	// fastInput is how many bytes of input fast needs to begin with: two refills and
	// the word that each of them reads.
	fastInput = 24
	// litReserve is how many bits acc must hold so that after a literal another
	// symbol with its extra bits can be taken. Codes longer than litBits go through
	// a refill of their own.
	litReserve = 2*litBits + 5
	// copyWidth is how many bytes matches are copied at a time.
	copyWidth = 16
)

// fast decodes symbols while there is plenty of input and of room, which are
// nearly all. It leaves anything out of the ordinary to careful.
//
// As in refill, the bits of acc above the lowest nbits ones are those that follow
// in the input, so that adding them once more changes nothing. Of nbits only the
// low six bits count here: whole entries are subtracted from it.
func (f *inflater) fast() error {
	acc, nbits, pos, op := f.acc, uint32(f.nbits), f.pos, f.op
	last, from := f.end-fastInput, 0
	for pos <= last && op < outFull-8 {
		acc |= binary.LittleEndian.Uint64(f.buf[pos:]) << (nbits & 63)
		pos += 7 - int(nbits>>3&7)
		nbits |= 56
		e := f.lit[acc&(1<<litBits-1)]
		if e&entryExcept != 0 {
			e = f.longLit(e, acc)
			if e&entryExcept != 0 {
				break
			}
			acc >>= litBits
			nbits -= litBits
		}
		for int32(e) < 0 && nbits&63 >= litReserve {
			acc >>= e & 63
			nbits -= e
			f.out[op] = byte(e >> entryValueShift)
			op++
			e = f.lit[acc&(1<<litBits-1)]
		}
		if e&(entryLiteral|entryExcept) != 0 {
			continue
		}
		n := entryValue(e, acc)
		acc >>= e & 63
		nbits -= e

		acc |= binary.LittleEndian.Uint64(f.buf[pos:]) << (nbits & 63)
		pos += 7 - int(nbits>>3&7)
		nbits |= 56
		e = f.dist[acc&(1<<distBits-1)]
		if e&entryExcept != 0 {
			e = f.longDist(e, acc)
			acc >>= distBits
			nbits -= distBits
		}
		d := entryValue(e, acc)
		acc >>= e & 63
		nbits -= e
		from = op - d
		if from < f.floor || e&entryExcept != 0 {
			from = -1
			break
		}
		if d < copyWidth {
			f.repeat(op, d, n)
			op += n
			continue
		}
		f.copyFar(op, from, n)
		op += n
	}
	f.acc, f.nbits, f.pos, f.op = acc, uint(nbits&63), pos, op
	if from < 0 {
		return f.corrupt(badDistance)
	}
	return nil
}

// entryValue returns the length or distance of an entry whose bits acc begins with.
func entryValue(e uint32, acc uint64) int {
	return int(e>>entryValueShift) + int(acc&(1<<(e&63)-1)>>(e>>entryCodeShift&15))
}

// longLit follows the link in an entry of lit. An entry without one is returned
// as it is.
func (f *inflater) longLit(e uint32, acc uint64) uint32 {
	if e&entryLink == 0 {
		return e
	}
	return f.lit[subIndex(e, acc>>litBits)&(litTableLen-1)]
}

// longDist follows the link in an entry of dist, like longLit.
func (f *inflater) longDist(e uint32, acc uint64) uint32 {
	if e&entryLink == 0 {
		return e
	}
	return f.dist[subIndex(e, acc>>distBits)&(distTableLen-1)]
}

// subIndex returns the index in a table of the entry of a long code, from the
// entry that links to its subtable and the rest of the code.
func subIndex(link uint32, rest uint64) uint64 {
	return uint64(link>>entryValueShift) + rest&(1<<(link>>entryCodeShift&15)-1)
}

// copyFar copies n bytes of out from a distance of at least copyWidth. It may write
// up to copyWidth-1 bytes more.
func (f *inflater) copyFar(op, from, n int) {
	for end := op + n; op < end; op += copyWidth {
		*(*[copyWidth]byte)(f.out[op:]) = *(*[copyWidth]byte)(f.out[from:])
		from += copyWidth
	}
}

// repeat copies n bytes of out from any distance.
func (f *inflater) repeat(op, d, n int) {
	dst := f.out[op-d : op+n]
	for k := d; k < len(dst); {
		k += copy(dst[k:], dst[:k])
	}
}
