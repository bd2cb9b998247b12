package index

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Entries walks the entries in the order of the tar, reading the index a chunk
// at a time. After an error the walk ends. Entries may be kept; what they hold
// is shared between them and must not be modified. Every call starts again.
func (l *Layer) Entries() iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		dec, err := newUnpacker()
		if err != nil {
			yield(nil, err)
			return
		}
		defer dec.Close()
		for i := range l.chunks {
			entries, err := l.readChunk(i, dec)
			for j := range entries {
				if !yield(&entries[j], nil) {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// readChunk returns the entries of chunk i up to the first bad one.
func (l *Layer) readChunk(i int, dec *zstd.Decoder) ([]Entry, error) {
	row := l.chunks[i]
	stored := make([]byte, row.stored)
	if err := readAt(l.r, stored, row.offset, sectionEntries); err != nil {
		return nil, err
	}
	raw, err := unpack(dec, stored, row.raw, sectionEntries)
	if err != nil {
		return nil, err
	}
	d := chunkDecoder{next: row.start, streamSize: l.info.streamSize, runs: make([]Segment, 0, row.entries)}
	c := cursor{b: raw}
	for col := range d.cols {
		d.cols[col].b = c.prefixed(len(raw))
	}
	if c.bad || len(c.b) != 0 {
		return nil, formatError(sectionEntries, "chunk %d: columns do not fill it", i)
	}
	if reason := d.readAttrs(); reason != "" {
		return nil, formatError(sectionEntries, "chunk %d: %s", i, reason)
	}
	entries := make([]Entry, row.entries)
	for n := range entries {
		if reason := d.read(&entries[n]); reason != "" {
			return entries[:n], formatError(sectionEntries, "chunk %d: entry %d, path %.100q: %s", i, n, d.path, reason)
		}
	}
	for col := range d.cols {
		if len(d.cols[col].b) != 0 {
			return entries, formatError(sectionEntries, "chunk %d: column %d has %d bytes more", i, col, len(d.cols[col].b))
		}
	}
	return entries, nil
}

// chunkDecoder reads entries from the columns of one chunk. Its methods return
// the reason why the chunk is bad, "" when it is not.
type chunkDecoder struct {
	cols       [columns]cursor
	attrs      []attributes
	path       []byte
	seconds    int64
	next       int64 // stream offset where the data of the entry before ends, aligned
	streamSize int64
	runs       []Segment // storage for the segments of plain files
}

// attributes is what entries of a chunk share.
type attributes struct {
	kind     Type
	sparse   bool
	mode     uint32
	uid, gid uint32
	xattrs   []Xattr
}

func (d *chunkDecoder) readAttrs() string {
	c := &d.cols[colAttrs]
	for len(c.b) > 0 {
		packed := c.word()
		a := attributes{kind: Type(packed >> 12 & 0xf), mode: packed & 0o7777, uid: c.word(), gid: c.word()}
		if a.kind == typeSparse {
			a.kind, a.sparse = TypeReg, true
		}
		if a.kind < TypeReg || a.kind > TypeFifo || packed>>16 != 0 {
			return "unknown entry type"
		}
		if n := c.count(min(MaxXattrs, len(c.b))); n > 0 {
			a.xattrs = make([]Xattr, n)
			for i := range a.xattrs {
				a.xattrs[i].Name = string(c.prefixed(MaxXattrName))
				a.xattrs[i].Value = string(c.prefixed(MaxXattrValue))
			}
		}
		if c.bad {
			return "attributes are truncated or out of range"
		}
		if !validXattrs(a.xattrs) {
			return "extended attributes are not sorted, repeated or not named"
		}
		d.attrs = append(d.attrs, a)
	}
	return ""
}

func validXattrs(xs []Xattr) bool {
	for i, x := range xs {
		if x.Name == "" || strings.IndexByte(x.Name, 0) >= 0 || (i > 0 && xs[i-1].Name >= x.Name) {
			return false
		}
	}
	return true
}

func (d *chunkDecoder) read(e *Entry) string {
	n := d.cols[colAttr].uvarint(1<<32 - 1)
	if n >= uint64(len(d.attrs)) {
		return "its attributes are missing"
	}
	a := &d.attrs[n]
	e.Type, e.Mode, e.UID, e.GID, e.Xattrs = a.kind, a.mode, a.uid, a.gid, a.xattrs

	shared, suffix := d.cols[colShared].count(len(d.path)), d.cols[colSuffix].count(MaxPath)
	d.path = append(d.path[:shared], d.cols[colNames].bytes(suffix)...)
	if !validPath(d.path) {
		return "path is not clean or too long"
	}
	e.Path = string(d.path)

	seconds := d.cols[colSeconds].varint()
	d.seconds += seconds
	e.ModTime = time.Unix(d.seconds, int64(d.cols[colNanos].uvarint(999_999_999))).UTC()

	start := d.next + d.cols[colRun].offset(maxRun)*tarBlock
	if start > d.streamSize {
		return "its data lies past the end of the stream"
	}
	stored, reason := d.readContent(e, a.sparse, start)
	if reason != "" {
		return reason
	}
	if stored > d.streamSize-start {
		return "its data reaches past the end of the stream"
	}
	d.next = alignUp(start + stored)
	for i := range d.cols {
		if d.cols[i].bad {
			return "truncated or out of range"
		}
	}
	return ""
}

// readContent reads what belongs to the type of e, whose data starts at byte
// start of the stream. It returns how many bytes of the stream the data takes.
func (d *chunkDecoder) readContent(e *Entry, sparse bool, start int64) (int64, string) {
	switch e.Type {
	case TypeReg:
		e.Size = d.cols[colSize].offset(MaxFileSize)
		if sparse {
			return d.readSparse(e, start)
		}
		if e.Size > 0 {
			d.runs = append(d.runs, Segment{StreamOffset: start, Length: e.Size})
			last := len(d.runs) - 1
			e.Segments = d.runs[last : last+1 : last+1]
		}
		return e.Size, ""
	case TypeSymlink, TypeLink:
		link := d.cols[colLinks].bytes(d.cols[colLinkSize].count(MaxPath))
		if e.Type == TypeLink && !validPath(link) {
			return 0, "target of the hard link is not a clean path"
		}
		if len(link) == 0 && e.Type == TypeSymlink || slices.Contains(link, 0) {
			return 0, "target of the link is empty or has a NUL"
		}
		e.Link = string(link)
	case TypeChar, TypeBlock:
		e.Major, e.Minor = d.cols[colDevices].word(), d.cols[colDevices].word()
	case TypeDir, TypeFifo:
	}
	return 0, ""
}

// readSparse reads segments and literals. The segments must lie in the stored
// data, and together with the literals must not overlap nor pass the file's end.
func (d *chunkDecoder) readSparse(e *Entry, start int64) (int64, string) {
	c := &d.cols[colSparse]
	stored := c.offset(d.streamSize - start)
	e.Segments = nilIfEmpty(make([]Segment, c.count(min(MaxSegments, len(c.b)/3))))
	file, stream := int64(0), start
	for i := range e.Segments {
		s := &e.Segments[i]
		s.FileOffset = file + c.offset(e.Size-file)
		s.StreamOffset = stream + c.offset(start+stored-stream)
		s.Length = c.offset(min(e.Size-s.FileOffset, start+stored-s.StreamOffset))
		if c.bad || s.Length == 0 || s.FileOffset%tarBlock != 0 || s.StreamOffset%tarBlock != 0 {
			return 0, "a segment is empty, not aligned or out of range"
		}
		file, stream = s.FileOffset+s.Length, s.StreamOffset+s.Length
		if s.Length%tarBlock != 0 && file != e.Size {
			return 0, "a segment ends inside a block"
		}
	}
	e.Literals = nilIfEmpty(make([]Literal, c.count(min(MaxSegments, len(c.b)/2))))
	file = 0
	for i := range e.Literals {
		l := &e.Literals[i]
		l.FileOffset = file + c.offset(e.Size-file)
		l.Data = d.cols[colLiterals].bytes(c.count(int(min(MaxLiterals, e.Size-l.FileOffset))))
		if c.bad || d.cols[colLiterals].bad || len(l.Data) == 0 {
			return 0, "a literal is empty or out of range"
		}
		file = l.FileOffset + int64(len(l.Data))
	}
	if c.bad {
		return 0, "sparse map is truncated or out of range"
	}
	if overlap(e.Segments, e.Literals) {
		return 0, "segments and literals overlap"
	}
	return stored, ""
}

// overlap reports whether a literal covers a byte that a segment covers. Both
// are in ascending order.
func overlap(segments []Segment, literals []Literal) bool {
	for _, l := range literals {
		end := l.FileOffset + int64(len(l.Data))
		i, _ := slices.BinarySearchFunc(segments, l.FileOffset, func(s Segment, off int64) int {
			return cmp.Compare(s.FileOffset+s.Length-1, off)
		})
		if i < len(segments) && segments[i].FileOffset < end {
			return true
		}
	}
	return false
}

func nilIfEmpty[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return s
}

// validPath reports whether p is a clean relative path: components that are
// neither empty nor dots nor too long. The root is the empty path. A whiteout's name, which
// exists in tars only, is longer than that of the file it hides.
func validPath(p []byte) bool {
	if len(p) == 0 {
		return true
	}
	if len(p) > MaxPath {
		return false
	}
	start := 0
	for i := 0; i <= len(p); i++ {
		if i < len(p) && p[i] == 0 {
			return false
		}
		if i < len(p) && p[i] != '/' {
			continue
		}
		name := p[start:i]
		limit := MaxName
		if i == len(p) && strings.HasPrefix(string(name), whiteoutPrefix) {
			limit += len(whiteoutPrefix)
		}
		if len(name) == 0 || len(name) > limit || string(name) == "." || string(name) == ".." {
			return false
		}
		start = i + 1
	}
	return true
}
