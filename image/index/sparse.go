package index

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// archive/tar reads sparse files but does not say where their data lies. What
// follows reads the sparse map of the four formats of GNU tar from the headers
// once more. archive/tar has checked them already: entries are in ascending
// order, do not overlap and end inside the file.

// dataRange is a part of a sparse file that is stored.
type dataRange struct{ offset, length int64 }

// PAX records of sparse files.
const (
	paxSize        = "size"
	paxSparseMajor = "GNU.sparse.major"
	paxSparseMinor = "GNU.sparse.minor"
	paxSparseMap   = "GNU.sparse.map"
)

// Places in a header block of old GNU format and in its extension blocks.
const (
	typeAt          = 156
	sizeAt          = 124
	sizeLen         = 12
	sparseAt        = 386
	sparseInHeader  = 4
	sparseInExt     = 21
	sparseEntrySize = 24
	moreAt          = 482
	moreInExtAt     = 504
)

var errSparse = errors.New("sparse map is malformed")

// sparseKind returns which format of sparse file hdr announces, "" for none.
func sparseKind(hdr *tar.Header) string {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return "old"
	}
	major, minor := hdr.PAXRecords[paxSparseMajor], hdr.PAXRecords[paxSparseMinor]
	switch {
	case major == "0" && (minor == "0" || minor == "1"):
		return "0"
	case major == "1" && minor == "0":
		return "1"
	case major == "" && minor == "" && hdr.PAXRecords[paxSparseMap] != "":
		return "0"
	default:
		return ""
	}
}

// sparseRanges returns the stored parts of a sparse file and their total length.
// headers are the blocks from the end of the entry before to the data.
func sparseRanges(hdr *tar.Header, headers []byte) ([]dataRange, int64, error) {
	main, after, err := mainHeader(headers)
	if err != nil {
		return nil, 0, err
	}
	physical, err := parseNumber(main[sizeAt : sizeAt+sizeLen])
	if s := hdr.PAXRecords[paxSize]; s != "" {
		physical, err = strconv.ParseInt(s, 10, 64)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading the stored size: %w", err)
	}
	var ranges []dataRange
	switch sparseKind(hdr) {
	case "old":
		ranges, err = oldRanges(main, after)
	case "0":
		ranges, err = rangesOf(strings.Split(hdr.PAXRecords[paxSparseMap], ","))
	default:
		physical -= int64(len(after))
		ranges, err = textRanges(after)
	}
	if err != nil {
		return nil, 0, err
	}
	stored := int64(0)
	for _, r := range ranges {
		if r.offset < 0 || r.length <= 0 || r.length > hdr.Size-r.offset {
			return nil, 0, errSparse
		}
		stored += r.length
	}
	if stored != physical {
		return nil, 0, fmt.Errorf("%w: it names %d bytes, %d are stored", errSparse, stored, physical)
	}
	return ranges, stored, nil
}

// mainHeader skips the headers that only prepare the one of the file itself.
func mainHeader(b []byte) (header, after []byte, err error) {
	for len(b) >= tarBlock {
		switch b[typeAt] {
		case tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
			n, err := parseNumber(b[sizeAt : sizeAt+sizeLen])
			if err != nil || n < 0 || n > int64(len(b)) || tarBlock+alignUp(n) > int64(len(b)) {
				return nil, nil, errSparse
			}
			b = b[tarBlock+alignUp(n):]
		default:
			return b[:tarBlock], b[tarBlock:], nil
		}
	}
	return nil, nil, errSparse
}

// oldRanges reads the map of old GNU format from the header and the blocks after.
func oldRanges(header, after []byte) ([]dataRange, error) {
	var ranges []dataRange
	table, more := header[sparseAt:sparseAt+sparseInHeader*sparseEntrySize], header[moreAt] > 0
	for {
		for len(table) > 0 && table[0] != 0 {
			offset, err1 := parseNumber(table[:sparseEntrySize/2])
			length, err2 := parseNumber(table[sparseEntrySize/2 : sparseEntrySize])
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			ranges = appendRange(ranges, offset, length)
			table = table[sparseEntrySize:]
		}
		if !more {
			return ranges, nil
		}
		if len(after) < tarBlock {
			return nil, errSparse
		}
		table, more = after[:sparseInExt*sparseEntrySize], after[moreInExtAt] > 0
		after = after[tarBlock:]
	}
}

// textRanges reads the map of PAX format 1.0, lines of decimal numbers before the
// data: their count, then offset and length of each.
func textRanges(b []byte) ([]dataRange, error) {
	line, rest, found := bytes.Cut(b, []byte("\n"))
	n, err := strconv.Atoi(string(line))
	if !found || err != nil || n < 0 || n > len(rest) {
		return nil, errSparse
	}
	fields := make([]string, 0, 2*n)
	for len(fields) < 2*n {
		if line, rest, found = bytes.Cut(rest, []byte("\n")); !found {
			return nil, errSparse
		}
		fields = append(fields, string(line))
	}
	return rangesOf(fields)
}

// rangesOf reads decimal numbers: offset, length, offset, length and so on.
func rangesOf(fields []string) ([]dataRange, error) {
	if len(fields) == 1 && fields[0] == "" {
		return nil, nil
	}
	var ranges []dataRange
	for ; len(fields) >= 2; fields = fields[2:] {
		offset, err1 := strconv.ParseInt(fields[0], 10, 64)
		length, err2 := strconv.ParseInt(fields[1], 10, 64)
		if err1 != nil || err2 != nil {
			return nil, errSparse
		}
		ranges = appendRange(ranges, offset, length)
	}
	return ranges, nil
}

// appendRange adds a range, joined to the one before when they touch. Empty ones
// mark the end of a file with a hole at its end and are left out.
func appendRange(ranges []dataRange, offset, length int64) []dataRange {
	if length == 0 {
		return ranges
	}
	if n := len(ranges); n > 0 && ranges[n-1].offset+ranges[n-1].length == offset {
		ranges[n-1].length += length
		return ranges
	}
	return append(ranges, dataRange{offset, length})
}

// parseNumber reads a number field of a tar header: octal digits, or base 256
// when the first bit is set.
func parseNumber(b []byte) (int64, error) {
	if b[0]&0x80 == 0 {
		digits := strings.Trim(string(b), " \x00")
		if digits == "" {
			return 0, nil
		}
		n, err := strconv.ParseInt(digits, 8, 64)
		if err != nil {
			return 0, fmt.Errorf("number %q in a tar header: %w", digits, errSparse)
		}
		return n, nil
	}
	var wide [sizeLen]byte
	copy(wide[sizeLen-len(b):], b)
	wide[sizeLen-len(b)] &= 0x7f
	n := binary.BigEndian.Uint64(wide[4:])
	if binary.BigEndian.Uint32(wide[:4]) != 0 || n >= 1<<63 {
		return 0, fmt.Errorf("number in a tar header is negative or too large: %w", errSparse)
	}
	return int64(n), nil
}
