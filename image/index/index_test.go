package index_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build makes the index of a blob and opens it, checking what must hold for any.
func build(tb testing.TB, blob []byte, cfg index.BuildConfig) (*index.Layer, *index.Result) {
	tb.Helper()
	res, err := index.Build(tb.Context(), bytes.NewReader(blob), cfg)
	if err != nil {
		tb.Fatalf("building: %v", err)
	}
	l, err := index.Open(bytes.NewReader(res.Encoded), int64(len(res.Encoded)))
	if err != nil {
		tb.Fatalf("opening: %v", err)
	}
	if got, want := l.BlobDigest(), block.Sum(blob); got != want || res.BlobDigest != want {
		tb.Errorf("blob digest %v, %v, want %v", got, res.BlobDigest, want)
	}
	if l.BlobSize() != int64(len(blob)) || l.DiffID() != res.DiffID || l.StreamSize() != res.StreamSize ||
		l.EntryCount() != res.Entries || l.FrameCount() != res.Frames || l.Compression() != res.Compression {
		tb.Errorf("layer and result differ: %+v", res)
	}
	return l, res
}

func entries(tb testing.TB, l *index.Layer) []index.Entry {
	tb.Helper()
	var all []index.Entry
	for e, err := range l.Entries() {
		if err != nil {
			tb.Fatalf("reading entries: %v", err)
		}
		all = append(all, *e)
	}
	if len(all) != l.EntryCount() {
		tb.Errorf("%d entries, the index says %d", len(all), l.EntryCount())
	}
	return all
}

// checkStream decodes every frame alone, all at once, and random ranges of them,
// and compares with the stream.
func checkStream(t *testing.T, l *index.Layer, blob, stream []byte) {
	t.Helper()
	if l.DiffID() != block.Sum(stream) || l.StreamSize() != int64(len(stream)) {
		t.Fatalf("stream of %d bytes %v, want %d bytes %v", l.StreamSize(), l.DiffID(), len(stream), block.Sum(stream))
	}
	for i := range block.Count(int64(len(stream))) {
		off := int(i) * block.Size
		d, ok := l.BlockDigest(i)
		if !ok || d != sha256.Sum256(stream[off:off+block.Length(int64(len(stream)), i)]) {
			t.Errorf("digest of block %d is wrong", i)
		}
	}
	if _, ok := l.BlockDigest(block.Count(int64(len(stream)))); ok {
		t.Error("there is a digest for a block past the end")
	}
	n := l.FrameCount()
	if n == 0 {
		if len(stream) != 0 {
			t.Error("no frames")
		}
		return
	}
	next := int64(0)
	for i := range n {
		f, err := l.Frame(i)
		if err != nil || f.StreamOffset != next {
			t.Fatalf("frame %d is %+v, %v, want it at %d", i, f, err, next)
		}
		for _, off := range []int64{f.StreamOffset, f.StreamOffset + f.StreamLength - 1} {
			if at, err := l.FrameAt(off); err != nil || at != i {
				t.Errorf("FrameAt(%d) = %d, %v, want %d", off, at, err, i)
			}
		}
		checkRange(t, l, blob, stream, i, 1)
		next = f.StreamOffset + f.StreamLength
	}
	if next != int64(len(stream)) {
		t.Errorf("frames end at %d, the stream at %d", next, len(stream))
	}
	rng := rand.New(rand.NewPCG(1, 2))
	checkRange(t, l, blob, stream, 0, n)
	for range 3 {
		first := rng.IntN(n)
		checkRange(t, l, blob, stream, first, 1+rng.IntN(n-first))
	}
}

func checkRange(t *testing.T, l *index.Layer, blob, stream []byte, first, count int) {
	t.Helper()
	from, err := l.Frame(first)
	if err != nil {
		t.Fatal(err)
	}
	last, err := l.Frame(first + count - 1)
	if err != nil {
		t.Fatal(err)
	}
	stored := blob[from.BlobOffset : last.BlobOffset+last.BlobLength]
	want := stream[from.StreamOffset : last.StreamOffset+last.StreamLength]
	if got, err := decode(l, first, count, bytes.NewReader(stored)); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("frames %d+%d: %d bytes, equal %v, error %v", first, count, len(got), bytes.Equal(got, want), err)
	}
	if len(stored) > 0 {
		cut := bytes.NewReader(stored[:len(stored)/2])
		if got, err := decode(l, first, count, cut); err == nil {
			t.Fatalf("frames %d+%d of half the bytes: %d bytes and no error", first, count, len(got))
		}
	}
}

func decode(l *index.Layer, first, count int, blob io.Reader) ([]byte, error) {
	r, err := l.Decode(first, count, blob)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(r)
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	return got, err
}

// checkOpenStream reads a blob as full mode does, and one that breaks off if that can be noticed.
func checkOpenStream(t *testing.T, blob, stream []byte, compressed bool) {
	t.Helper()
	read := func(stored []byte) ([]byte, error) {
		r, err := index.OpenStream(bytes.NewReader(stored))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
	if got, err := read(blob); err != nil || !bytes.Equal(got, stream) {
		t.Errorf("OpenStream: %d of %d bytes, or wrong ones: %v", len(got), len(stream), err)
	}
	if got, err := read(blob[:len(blob)/2]); compressed && err == nil {
		t.Errorf("OpenStream of half a blob: %d bytes and no error", len(got))
	}
}

func TestEveryTypeInEveryCompression(t *testing.T) {
	stream := sample(t)
	want := wantSample()
	for _, packing := range packings() {
		t.Run(packing, func(t *testing.T) {
			blob := pack(t, packing, stream)
			l, res := build(t, blob, index.BuildConfig{Spacing: 100_000})
			checkStream(t, l, blob, stream)
			checkOpenStream(t, blob, stream, packing != "plain")
			got := entries(t, l)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
			for _, e := range got {
				if e.Type == index.TypeReg && e.Size > 0 && len(e.Segments) == 0 {
					t.Errorf("%s has no data", e.Path)
				}
			}
			slow, err := index.Build(t.Context(), iotest.HalfReader(bytes.NewReader(blob)), index.BuildConfig{Spacing: 100_000})
			if err != nil || !bytes.Equal(slow.Encoded, res.Encoded) {
				t.Errorf("reading in small pieces gives another index, or an error: %v", err)
			}
		})
	}
}

func TestDataLiesWhereSegmentsSay(t *testing.T) {
	stream := sample(t)
	l, _ := build(t, stream, index.BuildConfig{})
	contents := map[string][]byte{}
	for _, e := range entries(t, l) {
		contents[e.Path] = content(&e, stream)
	}
	for name, want := range map[string][]byte{"etc/passwd": noise(300_000, 1), "outside": noise(513, 2)} {
		if !bytes.Equal(contents[name], want) {
			t.Errorf("content of %s differs", name)
		}
	}
}

// content assembles what a reader of e sees.
func content(e *index.Entry, stream []byte) []byte {
	out := make([]byte, e.Size)
	for _, s := range e.Segments {
		copy(out[s.FileOffset:s.FileOffset+s.Length], stream[s.StreamOffset:])
	}
	for _, l := range e.Literals {
		copy(out[l.FileOffset:], l.Data)
	}
	return out
}

func TestEnds(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "file", Size: 300_000}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(noise(300_000, 1)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	stream := buf.Bytes()
	marker := make([]byte, 1024)
	body := bytes.TrimSuffix(stream, marker)
	const n = 1
	for name, c := range map[string]struct {
		stream  []byte
		entries int
	}{
		"no end marker":       {body, n},
		"half an end marker":  {stream[:len(body)+512], n},
		"data after the end":  {append(bytes.Clone(stream), noise(100_000, 9)...), n},
		"zeros after the end": {append(bytes.Clone(stream), make([]byte, 600_000)...), n},
		"only an end marker":  {marker, 0},
		"nothing":             {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for _, packing := range []string{"plain", "gzip members", "zstd frames"} {
				blob := pack(t, packing, c.stream)
				l, _ := build(t, blob, index.BuildConfig{})
				checkStream(t, l, blob, c.stream)
				if got := len(entries(t, l)); got != c.entries {
					t.Errorf("%s: %d entries, want %d", packing, got, c.entries)
				}
			}
		})
	}
}

func TestPaddedGzip(t *testing.T) {
	stream := sample(t)
	blob := append(pack(t, "gzip", stream), make([]byte, 1000)...)
	l, res := build(t, blob, index.BuildConfig{})
	last, err := l.Frame(res.Frames - 1)
	if err != nil || last.BlobOffset+last.BlobLength != int64(len(blob)-1000) {
		t.Errorf("last frame is %+v, %v", last, err)
	}
	checkStream(t, l, blob, stream)
}

func TestBuildErrors(t *testing.T) {
	stream := sample(t)
	odd := func(h tar.Header) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	for name, c := range map[string]struct {
		blob []byte
		want string
	}{
		"not a tar":       {noise(5000, 1), "tar header at byte 0"},
		"truncated data":  {stream[:200_000], "unexpected EOF"},
		"truncated gzip":  {pack(t, "gzip", stream)[:100_000], "unexpected EOF"},
		"truncated zstd":  {pack(t, "zstd", stream)[:100_000], "unexpected EOF"},
		"zstd then noise": {append(pack(t, "zstd", stream), noise(100, 1)...), "no frame starts at byte"},
		"unknown type":    {odd(tar.Header{Name: "x", Typeflag: 'Z', Format: tar.FormatUSTAR}), `type 'Z'`},
		"long name":       {odd(tar.Header{Name: strings.Repeat("n", 300), Typeflag: tar.TypeDir}), "name longer than 255"},
		"long path":       {odd(tar.Header{Name: strings.Repeat("n/", 2100), Typeflag: tar.TypeDir}), "longer than 4095 bytes"},
		"large value": {
			odd(tar.Header{Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("v", 65537)}}),
			`attribute "user.x"`,
		},
		"device number": {
			odd(tar.Header{Name: "x", Typeflag: tar.TypeChar, Devmajor: 1 << 40, Format: tar.FormatGNU}), "device number",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := index.Build(t.Context(), bytes.NewReader(c.blob), index.BuildConfig{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestBuildStops(t *testing.T) {
	blob := pack(t, "gzip", sample(t))
	failing := io.MultiReader(bytes.NewReader(blob[:len(blob)/2]), iotest.ErrReader(io.ErrClosedPipe))
	if _, err := index.Build(t.Context(), failing, index.BuildConfig{}); err == nil || !strings.Contains(err.Error(), io.ErrClosedPipe.Error()) {
		t.Errorf("error of the blob: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := index.Build(ctx, bytes.NewReader(blob), index.BuildConfig{}); err == nil || ctx.Err() == nil {
		t.Error("no error although the context had ended")
	}
}
