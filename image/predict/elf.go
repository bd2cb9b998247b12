package predict

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
)

// Limits of what is parsed of an ELF file.
const (
	maxSegments = 256
	maxDynamic  = 64 << 10 // bytes of the dynamic section
	maxNeeded   = 512      // libraries that one file needs
	maxElfName  = 4096     // bytes of a string
)

// errNotELF says that a file does not begin as an ELF file does.
var errNotELF = errors.New("not an ELF file")

// elfFile is what is known of a program or shared library.
type elfFile struct {
	class       byte // of the header: 1 for 32 bits, 2 for 64 bits
	machine     uint16
	interpreter string
	soname      string
	needed      []string
	rpath       []string // searched before LD_LIBRARY_PATH, also for libraries of libraries
	runpath     []string // searched after it
	noDefault   bool     // the default directories are not searched
	// linked is the end of what the loader reads of the beginning of the file: symbols and
	// relocations.
	linked int64
	// written are the parts that the loader relocates.
	written []extent
}

// elfReader reads an ELF file of a given size.
type elfReader struct {
	io.ReaderAt

	size  int64
	order binary.ByteOrder
	wide  bool // 64 bits
	loads []loadSegment
}

// loadSegment is a part of the file as it lies in memory.
type loadSegment struct{ address, offset, length uint64 }

// Types and tags of ELF that are used here.
const (
	segmentLoad, segmentDynamic, segmentInterpreter = 1, 2, 3

	flagWritable = 2

	tagNeeded, tagStrings, tagSymbols, tagRela, tagRelaSize, tagStringsSize, tagSoname = 1, 5, 6, 7, 8, 10, 14
	tagRpath, tagRel, tagRelSize, tagJumpRel, tagJumpRelSize, tagRunpath               = 15, 17, 18, 23, 2, 29
	tagFlags1, flagNoDefaultLib                                                        = 0x6ffffffb, 0x800
	tagVersions, tagGNUHash                                                            = 0x6ffffff0, 0x6ffffef5
)

// parseELF reads headers and dynamic section of an ELF file of size bytes. Damaged files give errors
// or too little, in bounded memory and time.
func parseELF(in io.ReaderAt, size int64) (*elfFile, error) {
	r := &elfReader{ReaderAt: in, size: size}
	f, headers, err := r.header()
	if err != nil {
		return nil, err
	}
	var dynamic *extent
	for _, h := range headers {
		segment, flags, s := r.segment(h)
		if s.offset > uint64(size) || s.length > uint64(size)-s.offset {
			continue // damaged, or the file is only a part of one
		}
		part := extent{int64(s.offset), int64(s.length)}
		switch segment {
		case segmentLoad:
			r.loads = append(r.loads, s)
			if flags&flagWritable != 0 {
				f.written = append(f.written, part)
			}
		case segmentDynamic:
			dynamic = &part
		case segmentInterpreter:
			if f.interpreter, err = r.text(part.offset, min(part.length, maxElfName)); err != nil {
				return nil, err
			}
		}
	}
	if dynamic != nil {
		err = r.dynamic(f, *dynamic)
	}
	return f, err
}

// segment reads a program header.
func (r *elfReader) segment(h []byte) (segment, flags uint32, s loadSegment) {
	segment = r.order.Uint32(h)
	if r.wide {
		return segment, r.order.Uint32(h[4:]), loadSegment{r.order.Uint64(h[16:]), r.order.Uint64(h[8:]), r.order.Uint64(h[32:])}
	}
	return segment, r.order.Uint32(h[24:]), loadSegment{uint64(r.order.Uint32(h[8:])), uint64(r.order.Uint32(h[4:])), uint64(r.order.Uint32(h[16:]))}
}

// header reads the header of the file and its program headers.
func (r *elfReader) header() (*elfFile, [][]byte, error) {
	h := make([]byte, 64)
	if r.size < int64(len(h)) {
		return nil, nil, errNotELF
	}
	if _, err := r.ReadAt(h, 0); err != nil {
		return nil, nil, err
	}
	if string(h[:4]) != "\x7fELF" || h[4] != 1 && h[4] != 2 || h[5] != 1 && h[5] != 2 {
		return nil, nil, errNotELF
	}
	r.wide, r.order = h[4] == 2, binary.ByteOrder(binary.LittleEndian)
	if h[5] == 2 {
		r.order = binary.BigEndian
	}
	offset, entry, count, least := uint64(r.order.Uint32(h[28:])), r.order.Uint16(h[42:]), r.order.Uint16(h[44:]), uint16(32)
	if r.wide {
		offset, entry, count, least = r.order.Uint64(h[32:]), r.order.Uint16(h[54:]), r.order.Uint16(h[56:]), 56
	}
	length := uint64(entry) * uint64(count)
	if entry < least || count > maxSegments || offset > uint64(r.size) || length > uint64(r.size)-offset {
		return nil, nil, fmt.Errorf("%d program headers of %d bytes at %d cannot be", count, entry, offset)
	}
	table := make([]byte, length)
	if _, err := r.ReadAt(table, int64(offset)); err != nil {
		return nil, nil, err
	}
	return &elfFile{class: h[4], machine: r.order.Uint16(h[18:])}, slices.Collect(slices.Chunk(table, int(entry))), nil
}

// dynamic reads the dynamic section.
func (r *elfReader) dynamic(f *elfFile, at extent) error {
	values, needed, err := r.tags(at)
	if err != nil {
		return err
	}
	f.noDefault = values[tagFlags1]&flagNoDefaultLib != 0
	f.linked = r.linked(values)
	for _, offset := range needed {
		name, err := r.dynamicText(values, offset)
		if err != nil {
			return err
		}
		f.needed = append(f.needed, name)
	}
	for tag, to := range map[uint64]*[]string{tagRpath: &f.rpath, tagRunpath: &f.runpath} {
		if offset, ok := values[tag]; ok {
			list, err := r.dynamicText(values, offset)
			if err != nil {
				return err
			}
			*to = splitPath(list)
		}
	}
	if offset, ok := values[tagSoname]; ok {
		f.soname, err = r.dynamicText(values, offset)
	}
	return err
}

// tags returns the values of the dynamic section, and those of the tag that occurs more than once: the
// offsets of the names of needed libraries.
func (r *elfReader) tags(at extent) (values map[uint64]uint64, needed []uint64, err error) {
	table := make([]byte, min(at.length, maxDynamic))
	if _, err := r.ReadAt(table, at.offset); err != nil {
		return nil, nil, err
	}
	width := 8
	if r.wide {
		width = 16
	}
	values = make(map[uint64]uint64)
	for entry := range slices.Chunk(table[:len(table)/width*width], width) {
		tag, value := uint64(r.order.Uint32(entry)), uint64(r.order.Uint32(entry[4:]))
		if r.wide {
			tag, value = r.order.Uint64(entry), r.order.Uint64(entry[8:])
		}
		if tag == 0 {
			break
		}
		if tag == tagNeeded && len(needed) < maxNeeded {
			needed = append(needed, value)
		}
		values[tag] = value
	}
	return values, needed, nil
}

// linked returns the end of what the loader reads before it relocates anything.
func (r *elfReader) linked(values map[uint64]uint64) int64 {
	end := int64(0)
	for tag, size := range map[uint64]uint64{
		tagStrings: values[tagStringsSize], tagRela: values[tagRelaSize], tagRel: values[tagRelSize],
		tagJumpRel: values[tagJumpRelSize], tagSymbols: 0, tagVersions: 0, tagGNUHash: 0,
	} {
		if address, ok := values[tag]; ok {
			if at, ok := r.position(address, size); ok {
				end = max(end, at+int64(size))
			}
		}
	}
	return end
}

// position returns where n bytes at an address are in the file.
func (r *elfReader) position(address, n uint64) (int64, bool) {
	for _, s := range r.loads {
		if address >= s.address && address-s.address <= s.length && n <= s.length-(address-s.address) {
			return int64(s.offset + address - s.address), true
		}
	}
	return 0, false
}

// dynamicText returns a string of the table that the dynamic section names.
func (r *elfReader) dynamicText(values map[uint64]uint64, offset uint64) (string, error) {
	size := values[tagStringsSize]
	if offset >= size || size > math.MaxInt32 {
		return "", fmt.Errorf("string %d of a table of %d bytes", offset, size)
	}
	table, ok := r.position(values[tagStrings], size)
	if !ok {
		return "", errors.New("the strings of the dynamic section are not in the file")
	}
	return r.text(table+int64(offset), int64(min(size-offset, maxElfName)))
}

// text returns the string at an offset, at most n bytes of it.
func (r *elfReader) text(offset, n int64) (string, error) {
	b := make([]byte, min(n, r.size-offset))
	if _, err := r.ReadAt(b, offset); err != nil {
		return "", err
	}
	if end := bytes.IndexByte(b, 0); end >= 0 {
		b = b[:end]
	}
	return string(b), nil
}
