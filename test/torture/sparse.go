package torture

import (
	"archive/tar"
	"fmt"
	"strconv"
	"strings"
)

const tarBlock = 512

// fragment is a part of a sparse file that is not a hole.
type fragment struct{ offset, length int }

// sparseWriter writes a sparse file in one of the ways of GNU tar. archive/tar
// reads all of them and writes none.
type sparseWriter func(name string, size int, fragments []fragment) item

// sparse returns sparse files of several shapes, each from every writer.
func sparse(writers ...sparseWriter) []item {
	shapes := []struct {
		name      string
		size      int
		fragments []fragment
	}{
		{"hole-first", 1 << 20, []fragment{{1<<20 - 4096, 4096}}},
		{"hole-last", 1 << 20, []fragment{{0, 4096}, {1 << 20, 0}}},
		{"hole-middle", 300_000, []fragment{{0, 8192}, {262_144, 37_856}}},
		{"all-hole", 1_000_000, []fragment{{1_000_000, 0}}},
		{"no-hole", 10_000, []fragment{{0, 10_000}}},
		{"small-blocks", 20_000, []fragment{{512, 512}, {2048, 1024}, {5120, 512}, {19_968, 32}}},
		{"many", 64 * 8192, every(64, 8192, 4096)},
		{"adjacent", 16_384, []fragment{{0, 4096}, {4096, 4096}, {12_288, 4096}}},
		{"unaligned", 10_000, []fragment{{100, 300}, {1000, 24}, {1500, 3000}, {9000, 1000}}},
		{"unaligned-tail", 40_960, []fragment{{0, 700}, {4096, 4096}, {36_864, 4000}}},
	}
	items := []item{dir("sparse")}
	for _, s := range shapes {
		for i, write := range writers {
			items = append(items, write(fmt.Sprintf("sparse/%s-%d", s.name, i), s.size, s.fragments))
		}
	}
	return append(items, file("sparse/after", 1000), link("sparse/linked", "sparse/many-0"))
}

func every(n, step, length int) []fragment {
	fragments := make([]fragment, n)
	for i := range fragments {
		fragments[i] = fragment{i * step, length}
	}
	return fragments
}

// stored returns the bytes of the fragments, one after the other.
func stored(name string, fragments []fragment) []byte {
	var data []byte
	for _, f := range fragments {
		data = append(data, content(fmt.Sprintf("%s at %d", name, f.offset), f.length)...)
	}
	return data
}

func padded(data []byte) []byte {
	return append(data, make([]byte, (tarBlock-len(data)%tarBlock)%tarBlock)...)
}

// sparseGNU uses the old format: the map is in the header and its extensions.
func sparseGNU(name string, size int, fragments []fragment) item {
	const inHeader, inExtension = 4, 21
	data := stored(name, fragments)
	header := rawHeader(name, tar.TypeGNUSparse, len(data), "ustar  \x00")
	put := func(block []byte, at, count int) {
		for i, f := range fragments[:min(count, len(fragments))] {
			copy(block[at+24*i:], octal(f.offset, 12))
			copy(block[at+24*i+12:], octal(f.length, 12))
		}
		fragments = fragments[min(count, len(fragments)):]
	}
	put(header, 386, inHeader)
	header[482] = flag(len(fragments) > 0)
	copy(header[483:], octal(size, 12))
	raw := checksummed(header)
	for len(fragments) > 0 {
		extension := make([]byte, tarBlock)
		put(extension, 0, inExtension)
		extension[504] = flag(len(fragments) > 0)
		raw = append(raw, extension...)
	}
	return item{raw: append(raw, padded(data)...)}
}

// sparsePlain writes the holes out.
func sparsePlain(name string, size int, fragments []fragment) item {
	whole, data := make([]byte, size), stored(name, fragments)
	for _, f := range fragments {
		copy(whole[f.offset:], data[:f.length])
		data = data[f.length:]
	}
	return fileWith(name, whole).format(tar.FormatGNU).at(1_600_000_000, 0)
}

func flag(set bool) byte {
	if set {
		return 1
	}
	return 0
}

// sparsePAX00 keeps the map in one extended header record for each number.
func sparsePAX00(name string, size int, fragments []fragment) item {
	var records strings.Builder
	records.WriteString(paxRecord("GNU.sparse.size", strconv.Itoa(size)))
	records.WriteString(paxRecord("GNU.sparse.numblocks", strconv.Itoa(len(fragments))))
	for _, f := range fragments {
		records.WriteString(paxRecord("GNU.sparse.offset", strconv.Itoa(f.offset)))
		records.WriteString(paxRecord("GNU.sparse.numbytes", strconv.Itoa(f.length)))
	}
	records.WriteString(paxRecord("path", name))
	return sparsePAX(records.String(), stored(name, fragments))
}

// sparsePAX01 keeps the map in one extended header record.
func sparsePAX01(name string, size int, fragments []fragment) item {
	numbers := make([]string, 0, 2*len(fragments))
	for _, f := range fragments {
		numbers = append(numbers, strconv.Itoa(f.offset), strconv.Itoa(f.length))
	}
	records := paxRecord("GNU.sparse.size", strconv.Itoa(size)) +
		paxRecord("GNU.sparse.numblocks", strconv.Itoa(len(fragments))) +
		paxRecord("GNU.sparse.map", strings.Join(numbers, ",")) +
		paxRecord("GNU.sparse.name", name)
	return sparsePAX(records, stored(name, fragments))
}

// sparsePAX10 keeps the map in front of the data.
func sparsePAX10(name string, size int, fragments []fragment) item {
	text := fmt.Appendf(nil, "%d\n", len(fragments))
	for _, f := range fragments {
		text = fmt.Appendf(text, "%d\n%d\n", f.offset, f.length)
	}
	records := paxRecord("GNU.sparse.major", "1") + paxRecord("GNU.sparse.minor", "0") +
		paxRecord("GNU.sparse.name", name) + paxRecord("GNU.sparse.realsize", strconv.Itoa(size))
	return sparsePAX(records, append(padded(text), stored(name, fragments)...))
}

func sparsePAX(records string, data []byte) item {
	records += paxRecord("mtime", "1600000000.123456789")
	raw := checksummed(rawHeader("PaxHeaders/x", tar.TypeXHeader, len(records), "ustar\x0000"))
	raw = append(raw, padded([]byte(records))...)
	raw = append(raw, checksummed(rawHeader("GNUSparseFile.0/x", tar.TypeReg, len(data), "ustar\x0000"))...)
	return item{raw: append(raw, padded(data)...)}
}

// paxRecord formats "<length> <key>=<value>\n", where the length counts itself.
func paxRecord(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	length := len(rest) + len(strconv.Itoa(len(rest)))
	if len(strconv.Itoa(length))+len(rest) != length {
		length++
	}
	return strconv.Itoa(length) + rest
}

// rawHeader fills in what every tar header has.
func rawHeader(name string, typeflag byte, size int, magic string) []byte {
	block := make([]byte, tarBlock)
	copy(block, name)
	copy(block[100:], octal(0o644, 8))
	copy(block[108:], octal(0, 8))
	copy(block[116:], octal(0, 8))
	copy(block[124:], octal(size, 12))
	copy(block[136:], octal(1_600_000_000, 12))
	block[156] = typeflag
	copy(block[257:], magic)
	return block
}

func octal(n, width int) string { return fmt.Sprintf("%0*o\x00", width-1, n) }

func checksummed(block []byte) []byte {
	copy(block[148:], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:], fmt.Sprintf("%06o\x00 ", sum))
	return block
}
