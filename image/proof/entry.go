package proof

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// digest returns the digest of the entries of a layer, whichever way they are packed.
func digest(layer *index.Layer) (block.Digest, error) {
	hash := sha256.New()
	var row []byte
	for entry, err := range layer.Entries() {
		if err != nil {
			return block.Digest{}, fmt.Errorf("walking the entries of a layer index: %w", err)
		}
		row = appendEntry(row[:0], entry)
		hash.Write(row)
	}
	var sum block.Digest
	hash.Sum(sum[:0])
	return sum, nil
}

// appendEntry encodes an entry so that different ones differ: numbers have a fixed length,
// everything else is preceded by its own.
func appendEntry(b []byte, e *index.Entry) []byte {
	number := func(n int64) { b = binary.LittleEndian.AppendUint64(b, uint64(n)) }
	text := func(s string) { number(int64(len(s))); b = append(b, s...) }
	text(e.Path)
	for _, n := range []int64{
		int64(e.Type), int64(e.Mode), int64(e.UID), int64(e.GID), e.Size,
		e.ModTime.Unix(), int64(e.ModTime.Nanosecond()), int64(e.Major), int64(e.Minor),
	} {
		number(n)
	}
	text(e.Link)
	number(int64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		text(x.Name)
		text(x.Value)
	}
	number(int64(len(e.Segments)))
	for _, s := range e.Segments {
		number(s.FileOffset)
		number(s.StreamOffset)
		number(s.Length)
	}
	number(int64(len(e.Literals)))
	for _, l := range e.Literals {
		number(l.FileOffset)
		text(string(l.Data))
	}
	return b
}

// difference says how an entry of an index differs from that of the tar, "" if it does not.
func difference(claimed, actual *index.Entry) string {
	if bytes.Equal(appendEntry(nil, claimed), appendEntry(nil, actual)) {
		return ""
	}
	if claimed.Path != actual.Path {
		return fmt.Sprintf("it has entry %.200q where the tar has %.200q", claimed.Path, actual.Path)
	}
	what := "device number or time"
	switch {
	case claimed.Type != actual.Type:
		what = "type"
	case claimed.Mode != actual.Mode:
		what = fmt.Sprintf("mode, which is %o and not %o", actual.Mode, claimed.Mode)
	case claimed.UID != actual.UID || claimed.GID != actual.GID:
		what = "owner"
	case claimed.Size != actual.Size:
		what = "size"
	case claimed.Link != actual.Link:
		what = "link target"
	case !slices.Equal(claimed.Xattrs, actual.Xattrs):
		what = "extended attributes"
	case !slices.Equal(claimed.Segments, actual.Segments) || len(claimed.Literals) != len(actual.Literals):
		what = "content"
	}
	return fmt.Sprintf("entry %.200q has another %s in the tar", claimed.Path, what)
}
