package index_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/image/index"
)

// FuzzOpen reads hostile indexes: nothing may panic or allocate without bound, and
// what can be read is inside its limits.
func FuzzOpen(f *testing.F) {
	stream := sample(f)
	blobs := make([][]byte, 0, 3)
	for _, packing := range []string{"plain", "gzip members", "zstd frames"} {
		blob := pack(f, packing, stream)
		res, err := index.Build(f.Context(), bytes.NewReader(blob), index.BuildConfig{Spacing: 100_000})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(res.Encoded, uint8(len(blobs)))
		blobs = append(blobs, blob)
	}
	sparse := paxSparse(f, 1<<20, []int64{0, 1000, 1512, 5000}, noise(6000, 1))
	res, err := index.Build(f.Context(), bytes.NewReader(sparse), index.BuildConfig{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(res.Encoded, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		if err := use(b, blobs[int(n)%len(blobs)]); err != nil && !errors.Is(err, index.ErrFormat) {
			t.Error(err)
		}
	})
}

// FuzzEntries reads hostile chunks of entries, which FuzzOpen cannot reach through
// their compression.
func FuzzEntries(f *testing.F) {
	stream := sample(f)
	sparse := paxSparse(f, 1<<20, []int64{0, 1000, 1512, 5000}, noise(6000, 1))
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	defer dec.Close()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		f.Fatal(err)
	}
	var base []byte
	for _, s := range [][]byte{sparse, stream} {
		res, err := index.Build(f.Context(), bytes.NewReader(s), index.BuildConfig{})
		if err != nil {
			f.Fatal(err)
		}
		base = res.Encoded
		last := res.Sections[len(res.Sections)-1]
		raw, err := dec.DecodeAll(base[len(base)-int(last.Stored):], nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, uint16(res.Entries))
	}
	f.Fuzz(func(t *testing.T, raw []byte, count uint16) {
		b := index.WithChunk(base, enc.EncodeAll(raw, nil), len(raw), int(count))
		l, err := index.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, index.ErrFormat) {
				t.Error(err)
			}
			return
		}
		for e, err := range l.Entries() {
			if err != nil {
				if !errors.Is(err, index.ErrFormat) {
					t.Error(err)
				}
				return
			}
			checkEntry(t, e, l.StreamSize())
		}
	})
}

// checkEntry checks what consumers of entries rely on.
func checkEntry(t *testing.T, e *index.Entry, streamSize int64) {
	t.Helper()
	if e.Size < 0 || e.Size > index.MaxFileSize || len(e.Path) > index.MaxPath || e.Mode > 0o7777 {
		t.Errorf("entry beyond its limits: %+v", e)
	}
	file, stream := int64(0), int64(0)
	for _, s := range e.Segments {
		if s.FileOffset < file || s.StreamOffset < stream || s.Length <= 0 || s.FileOffset+s.Length > e.Size ||
			s.StreamOffset+s.Length > streamSize {
			t.Errorf("%q: segment %+v after %d, %d", e.Path, s, file, stream)
		}
		file, stream = s.FileOffset+s.Length, s.StreamOffset+s.Length
	}
	checkGrid(t, e)
	file = 0
	for _, l := range e.Literals {
		if l.FileOffset < file || len(l.Data) == 0 || l.FileOffset+int64(len(l.Data)) > e.Size {
			t.Errorf("%q: literal of %d bytes at %d after %d", e.Path, len(l.Data), l.FileOffset, file)
		}
		file = l.FileOffset + int64(len(l.Data))
	}
}

// FuzzBuild indexes hostile blobs. What is accepted must read back the same.
func FuzzBuild(f *testing.F) {
	stream := sample(f)[:4096]
	sparse := paxSparse(f, 1<<20, []int64{0, 1000, 1512, 5000}, noise(6000, 1))
	for _, packing := range packings() {
		f.Add(pack(f, packing, stream))
		f.Add(pack(f, packing, sparse))
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		limited := blob[:min(len(blob), 64<<10)]
		res, err := index.Build(t.Context(), bytes.NewReader(limited), index.BuildConfig{Spacing: 64 << 10})
		if err != nil {
			return
		}
		l, err := index.Open(bytes.NewReader(res.Encoded), int64(len(res.Encoded)))
		if err != nil {
			t.Fatalf("own index cannot be opened: %v", err)
		}
		for e, err := range l.Entries() {
			if err != nil {
				t.Fatalf("own index cannot be read: %v", err)
			}
			checkEntry(t, e, l.StreamSize())
		}
		if l.FrameCount() == 0 {
			return
		}
		from, err := l.Frame(0)
		if err != nil {
			t.Fatal(err)
		}
		r, err := l.Decode(0, l.FrameCount(), bytes.NewReader(limited[from.BlobOffset:]))
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r)
		if closeErr := r.Close(); err != nil || closeErr != nil || n != l.StreamSize() {
			t.Fatalf("decoding gives %d of %d bytes, %v, %v", n, l.StreamSize(), err, closeErr)
		}
	})
}
