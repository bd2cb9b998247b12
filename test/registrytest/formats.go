package registrytest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// tarTrailer is the length of the end of a tar, in bytes.
const tarTrailer = 1024

// Members stores a tar as gzip members of size bytes of it each, one after the other.
func Members(tb testing.TB, tar []byte, size int) Layer {
	tb.Helper()
	var blob bytes.Buffer
	for rest := tar; len(rest) > 0; {
		n := min(size, len(rest))
		finish(tb, gzip.NewWriter(&blob), rest[:n])
		rest = rest[n:]
	}
	return Layer{Tar: tar, Blob: blob.Bytes()}
}

// Pigz stores a tar as pigz does: one gzip member, flushed after every 128 KiB.
func Pigz(tb testing.TB, tar []byte) Layer {
	tb.Helper()
	var blob bytes.Buffer
	w := gzip.NewWriter(&blob)
	rest := tar
	for len(rest) > 128<<10 {
		if _, err := w.Write(rest[:128<<10]); err != nil {
			tb.Fatalf("registrytest: %v", err)
		}
		if err := w.Flush(); err != nil {
			tb.Fatalf("registrytest: %v", err)
		}
		rest = rest[128<<10:]
	}
	finish(tb, w, rest)
	return Layer{Tar: tar, Blob: blob.Bytes()}
}

// BGZF stores a tar as bgzip does: gzip members of less than 64 KiB that say how long they are, and
// an empty one at the end.
func BGZF(tb testing.TB, tar []byte) Layer {
	tb.Helper()
	const content, sizeAt = 0xff00, 16
	var blob bytes.Buffer
	for rest, last := tar, false; !last; {
		n := min(content, len(rest))
		last = n == 0
		start := blob.Len()
		w := gzip.NewWriter(&blob)
		w.Extra = []byte{'B', 'C', 2, 0, 0, 0}
		finish(tb, w, rest[:n])
		member := blob.Bytes()[start:]
		binary.LittleEndian.PutUint16(member[sizeAt:], uint16(len(member)-1))
		rest = rest[n:]
	}
	return Layer{Tar: tar, Blob: blob.Bytes()}
}

// part is a piece of a tar: the headers of a file, or its data.
type part struct {
	file File
	data bool
	tar  []byte
}

// parts cuts the tar of files at the borders of their data. The end of the tar is left out.
func parts(tb testing.TB, files []File) []part {
	tb.Helper()
	var out []part
	for _, f := range files {
		tar := Tar(tb, f)
		tar = tar[:len(tar)-tarTrailer]
		data := (len(f.Data) + 511) &^ 511
		out = append(out, part{file: f, tar: tar[:len(tar)-data]})
		if data > 0 {
			out = append(out, part{file: f, data: true, tar: tar[len(tar)-data:]})
		}
	}
	return out
}

// contentsEntry is a file in the table of contents of eStargz and zstd:chunked.
type contentsEntry struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Size   int    `json:"size,omitempty"`
	Offset int    `json:"offset,omitempty"`
}

func encodeContents(tb testing.TB, entries []contentsEntry) []byte {
	tb.Helper()
	content, err := json.Marshal(map[string]any{"version": 1, "entries": entries})
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	return content
}

func entryOf(p part, offset int) contentsEntry {
	e := contentsEntry{Name: p.file.Name, Type: "reg", Size: len(p.file.Data), Offset: offset}
	if p.file.Name[len(p.file.Name)-1] == '/' {
		e.Type = "dir"
	}
	return e
}

// EStargz stores files as eStargz does: gzip members that begin at the data of each file, a table of
// contents as the last file of the tar, and a footer that says where it is.
func EStargz(tb testing.TB, files ...File) Layer {
	tb.Helper()
	var tar, blob bytes.Buffer
	member := func(content []byte) {
		finish(tb, gzip.NewWriter(&blob), content)
		tar.Write(content)
	}
	var entries []contentsEntry
	for _, p := range parts(tb, files) {
		if p.data || len(p.file.Data) == 0 {
			entries = append(entries, entryOf(p, blob.Len()))
		}
		member(p.tar)
	}
	contentsAt := blob.Len()
	member(Tar(tb, File{Name: "stargz.index.json", Data: encodeContents(tb, entries)}))
	footer, err := gzip.NewWriterLevel(&blob, gzip.NoCompression)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	place := fmt.Sprintf("%016xSTARGZ", contentsAt)
	footer.Extra = append([]byte{'S', 'G', byte(len(place)), 0}, place...)
	finish(tb, footer, nil)
	return Layer{Tar: tar.Bytes(), Blob: blob.Bytes()}
}

// ZstdChunked stores files as zstd:chunked does: zstd frames that begin at the data of each file, and
// after them skippable frames with a table of contents and a footer.
func ZstdChunked(tb testing.TB, files ...File) Layer {
	tb.Helper()
	var tar, blob bytes.Buffer
	frame := func(content []byte) {
		w, err := zstd.NewWriter(&blob, zstd.WithEncoderConcurrency(1))
		if err != nil {
			tb.Fatalf("registrytest: %v", err)
		}
		finish(tb, w, content)
		tar.Write(content)
	}
	var entries []contentsEntry
	for _, p := range parts(tb, files) {
		if p.data || len(p.file.Data) == 0 {
			entries = append(entries, entryOf(p, blob.Len()))
		}
		frame(p.tar)
	}
	frame(make([]byte, tarTrailer))
	skippable := func(content []byte) {
		head := binary.LittleEndian.AppendUint32(nil, 0x184d2a50)
		blob.Write(binary.LittleEndian.AppendUint32(head, uint32(len(content))))
		blob.Write(content)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	contents := encodeContents(tb, entries)
	packed := enc.EncodeAll(contents, nil)
	contentsAt := uint64(blob.Len()) + 8
	skippable(packed)
	var footer []byte
	for _, n := range []uint64{contentsAt, uint64(len(packed)), uint64(len(contents)), 1, 0, 0, 0} {
		footer = binary.LittleEndian.AppendUint64(footer, n)
	}
	skippable(append(footer, "GNUlInUx"...))
	return Layer{Tar: tar.Bytes(), Blob: blob.Bytes(), Compression: Zstd}
}
