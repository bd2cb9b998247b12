package index

import (
	"bytes"
	"context"
	"errors"
)

// Parse parses and packs a layer stream without hashing it, to measure that alone.
func Parse(ctx context.Context, stream []byte) error {
	out, err := newChunkWriter()
	if err != nil {
		return err
	}
	p := newPipe(ctx)
	in := newStream(p, BuildConfig{})
	in.onBuffer = func([]byte) error { return nil }
	done := make(chan error, 1)
	go func() { done <- transfer(bytes.NewReader(stream), p) }()
	err = (&tarParser{in: in, out: out}).run()
	return errors.Join(err, <-done)
}

// WithChunk returns the index b with one chunk as its only entries.
func WithChunk(b, stored []byte, raw, entries int) []byte {
	w, err := newChunkWriter()
	if err != nil {
		panic(err)
	}
	size := len(b)
	table, err := parseTable(readerAt(b), int64(size))
	if err != nil {
		panic(err)
	}
	var sections []payload
	for _, s := range table {
		data := b[s.offset : s.offset+s.Stored]
		switch s.Name {
		case sectionInfo:
			in, err := parseInfo(data)
			if err != nil {
				panic(err)
			}
			in.entries = entries
			sections = append(sections, plain(s.Name, in.encode()))
		case sectionChunks:
			rows := []chunkRow{{entries: entries, raw: raw, stored: len(stored)}}
			sections = append(sections, w.pack(s.Name, appendChunkTable(nil, rows)))
		case sectionEntries:
			sections = append(sections, plain(s.Name, stored))
		default:
			sections = append(sections, payload{name: s.Name, stored: data, raw: int(s.Raw), packed: s.packed})
		}
	}
	return assemble(sections)
}

type readerAt []byte

func (r readerAt) ReadAt(p []byte, off int64) (int, error) { return copy(p, r[off:]), nil }
