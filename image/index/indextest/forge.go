// Package indextest forges layer indexes for tests.
package indextest

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// Where things are in an index, see docs/format.md.
const (
	headerSize = 16
	rowSize    = 32
	entriesAt  = 80 // in section INFO
)

// Build returns the index of a layer blob.
func Build(tb testing.TB, blob []byte) *index.Result {
	tb.Helper()
	built, err := index.Build(tb.Context(), bytes.NewReader(blob), index.BuildConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	return built
}

// WithEntries returns an index of the same blocks as encoded with the entries of another one.
func WithEntries(tb testing.TB, encoded, other []byte) []byte {
	tb.Helper()
	lie := split(encoded)
	claimed := split(other)
	lie["ENTI"], lie["ENTS"] = claimed["ENTI"], claimed["ENTS"]
	count := claimed["INFO"].stored[entriesAt : entriesAt+8]
	info := bytes.Clone(lie["INFO"].stored)
	copy(info[entriesAt:], count)
	lie["INFO"] = section{row: lie["INFO"].row, stored: info}
	return assemble(lie)
}

// WithDiffID returns an index that claims another diffID.
func WithDiffID(tb testing.TB, built *index.Result, claimed block.Digest) []byte {
	tb.Helper()
	if bytes.Count(built.Encoded, built.DiffID[:]) != 1 {
		tb.Fatal("the diffID is not where it is expected in an index")
	}
	return bytes.Replace(built.Encoded, built.DiffID[:], claimed[:], 1)
}

// Push makes indexes those of an image that is in a registry without any, the one of the
// lowest layer first.
func Push(tb testing.TB, client *registry.Client, image name.Reference, encoded ...[]byte) {
	tb.Helper()
	var blobs []registry.IndexBlob
	for _, content := range encoded {
		layer, err := index.Open(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			tb.Fatal(err)
		}
		if err := client.PushBlob(tb.Context(), image.Context(), content, registry.LayerMediaType); err != nil {
			tb.Fatal(err)
		}
		blobs = append(blobs, registry.IndexBlob{
			Layer: layer.BlobDigest(), DiffID: layer.DiffID(), Digest: block.Sum(content), Size: int64(len(content)),
			Head: headOf(content),
		})
	}
	subject, err := remote.Head(image, remote.WithContext(tb.Context()))
	if err != nil {
		tb.Fatal(err)
	}
	manifest, err := registry.EncodeArtifact(*subject, blobs)
	if err != nil {
		tb.Fatal(err)
	}
	if err := client.PushArtifact(tb.Context(), image.Context(), manifest); err != nil {
		tb.Fatal(err)
	}
}

// headOf returns the head of an index, as a writer names it.
func headOf(encoded []byte) index.Head {
	windows := len(split(encoded)["WNDW"].stored)
	if windows == 0 {
		return index.Head{}
	}
	head := encoded[:len(encoded)-windows]
	return index.Head{Size: int64(len(head)), Digest: block.Sum(head)}
}

// section is a section with its row of the section table.
type section struct{ row, stored []byte }

func split(encoded []byte) map[string]section {
	sections := make(map[string]section)
	for i := range int(binary.LittleEndian.Uint16(encoded[10:])) {
		row := encoded[headerSize+i*rowSize:][:rowSize]
		offset, stored := binary.LittleEndian.Uint64(row[8:]), binary.LittleEndian.Uint64(row[16:])
		sections[string(row[:4])] = section{row: row, stored: encoded[offset : offset+stored]}
	}
	return sections
}

func assemble(sections map[string]section) []byte {
	var table, content []byte
	order := []string{"INFO", "DGST", "FRAM", "ENTI", "ENTS", "WPRT", "WNDW"}
	offset := headerSize + rowSize*len(sections)
	for _, kind := range order {
		s, ok := sections[kind]
		if !ok {
			continue
		}
		row := bytes.Clone(s.row)
		binary.LittleEndian.PutUint64(row[8:], uint64(offset+len(content)))
		table, content = append(table, row...), append(content, s.stored...)
	}
	out := append([]byte("BRISKIDX"), 1, 0, byte(len(sections)), 0, 0, 0, 0, 0)
	return append(append(out, table...), content...)
}
