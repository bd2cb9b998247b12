package index_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// windowOf gets the window of a frame from the parts that it lies in.
func windowOf(tb testing.TB, l *index.Layer, frame int, encoded []byte) []byte {
	tb.Helper()
	var parts [][]byte
	for _, p := range l.WindowParts(frame) {
		content := encoded[p.Offset : p.Offset+p.Length]
		if block.Sum(content) != p.Digest || p.Index != block.Sum(encoded) || p.IndexSize != int64(len(encoded)) {
			tb.Errorf("frame %d: part %+v is not what the index has there", frame, p)
		}
		parts = append(parts, content)
	}
	if len(parts) == 0 {
		return nil
	}
	window, err := l.JoinWindow(frame, parts)
	if err != nil {
		tb.Fatal(err)
	}
	return window
}

// The head of an index answers all that a mount asks, and names the bytes that a frame needs.
func TestHead(t *testing.T) {
	stream := append(sample(t), noise(6<<20, 4)...)
	for _, packing := range packings() {
		blob := pack(t, packing, stream)
		whole, res := build(t, blob, index.BuildConfig{Spacing: 40_000})
		if whole.Compression() != index.CompressionGzip {
			if res.Head != (index.Head{}) {
				t.Errorf("%s: head %+v of an index without windows", packing, res.Head)
			}
			continue
		}
		head := res.Encoded[:res.Head.Size]
		if res.Head.Size == 0 || block.Sum(head) != res.Head.Digest {
			if packing == "gzip" {
				t.Errorf("%s: head of %d bytes does not have its digest", packing, res.Head.Size)
			}
			continue
		}
		l, err := index.OpenHead(bytes.NewReader(head), res.Head, block.Sum(res.Encoded), int64(len(res.Encoded)))
		if err != nil {
			t.Fatalf("%s: %v", packing, err)
		}
		if diff := cmp.Diff(entries(t, whole), entries(t, l)); diff != "" || l.StreamID() != whole.StreamID() {
			t.Errorf("%s: stream %s and %s, entries:\n%s", packing, l.StreamID(), whole.StreamID(), diff)
		}
		for i := range l.FrameCount() {
			f, err := l.Frame(i)
			if err != nil {
				t.Fatal(err)
			}
			r, err := l.DecodeFrom(windowOf(t, l, i, res.Encoded), i, 1, bytes.NewReader(blob[f.BlobOffset:]))
			if err != nil {
				t.Fatalf("%s: frame %d: %v", packing, i, err)
			}
			got, err := io.ReadAll(r)
			if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, stream[f.StreamOffset:f.StreamOffset+f.StreamLength]) {
				t.Fatalf("%s: frame %d: %v, or wrong bytes", packing, i, err)
			}
		}
	}
}

// A head that is not one is refused, by name.
func TestFalseHead(t *testing.T) {
	blob := pack(t, "gzip", append(sample(t), noise(2<<20, 4)...))
	_, res := build(t, blob, index.BuildConfig{Spacing: 40_000})
	digest, size, n := block.Sum(res.Encoded), int64(len(res.Encoded)), res.Head.Size
	_, plain := build(t, sample(t), index.BuildConfig{})
	of := func(size int64) index.Head { return index.Head{Size: size} }
	for name, open := range map[string]func() (*index.Layer, error){
		"shorter": func() (*index.Layer, error) {
			return index.OpenHead(bytes.NewReader(res.Encoded[:n-1]), of(n-1), digest, size)
		},
		"longer": func() (*index.Layer, error) {
			return index.OpenHead(bytes.NewReader(res.Encoded), of(n+1), digest, size)
		},
		"of another index": func() (*index.Layer, error) {
			return index.OpenHead(bytes.NewReader(res.Encoded), of(n), digest, size+1)
		},
		"cut": func() (*index.Layer, error) {
			return index.OpenHead(bytes.NewReader(res.Encoded[:n/2]), of(n), digest, size)
		},
		"without windows": func() (*index.Layer, error) {
			return index.OpenHead(bytes.NewReader(plain.Encoded), of(int64(len(plain.Encoded))), digest, int64(len(plain.Encoded)))
		},
	} {
		if _, err := open(); err == nil || name != "cut" && !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
