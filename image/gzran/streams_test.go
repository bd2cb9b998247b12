package gzran_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	stdgzip "compress/gzip"
	"encoding/binary"
	"errors"
	"go/build"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/flate"

	"github.com/brisk-project/brisk/test/require"
)

// sample is a gzip stream and what it holds.
type sample struct {
	name string
	gz   []byte
	want []byte
}

// samples returns streams of all shapes that are known to occur.
func samples(tb testing.TB) []sample {
	tb.Helper()
	text, noise := words(1_000_000), random(400_000)
	mixed := slices.Concat(text[:400_000], noise[:300_000], make([]byte, 300_000), text[:900_000])
	runs := periods()
	far := slices.Concat(noise[:32<<10], noise[:32<<10], noise[:32<<10], noise[:32<<10])
	return []sample{
		{"empty", compressed(tb, 6, nil), nil},
		{"one byte", compressed(tb, 6, []byte("x")), []byte("x")},
		{"fixed codes", compressed(tb, 6, []byte("hello, hello")), []byte("hello, hello")},
		{"level 1", compressed(tb, 1, text), text},
		{"level 6", compressed(tb, 6, text), text},
		{"level 9", compressed(tb, 9, text), text},
		{"stored", compressed(tb, 0, text), text},
		{"no matches", compressed(tb, stdgzip.HuffmanOnly, text), text},
		{"noise", compressed(tb, 6, noise), noise},
		{"zeros", compressed(tb, 6, make([]byte, 2<<20)), make([]byte, 2<<20)},
		{"short distances", compressed(tb, 6, runs), runs},
		{"longest distances", farMatches(far), far},
		{"mixed", compressed(tb, 6, mixed), mixed},
		{"flushed", flushed(tb, text), text},
		{"one huge block", hugeBlock(text), text},
		{"header fields", slices.Concat(fullHeader(0), body(tb, text)), text},
		{"long names", slices.Concat(fullHeader(100_000), body(tb, text)), text},
		{"members", members(tb, text, 200<<10, nil), text},
		{"bgzip", slices.Concat(members(tb, text, 0xff00, []byte("BC\x02\x00\x12\x34")), compressed(tb, 6, nil)), text},
		{"tiny members", members(tb, text[:2000], 1, nil), text[:2000]},
		{"empty members", slices.Concat(compressed(tb, 6, nil), compressed(tb, 6, text), compressed(tb, 6, nil)), text},
	}
}

// words returns n bytes of text that compresses about as well as source code.
func words(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	vocabulary := make([][]byte, 4000)
	for i := range vocabulary {
		vocabulary[i] = random(3 + i%9)
		for j, c := range vocabulary[i] {
			vocabulary[i][j] = 'a' + (c^byte(i))%26
		}
	}
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = append(b, vocabulary[int(rnd.ExpFloat64()*400)%len(vocabulary)]...)
		b = append(b, " \n"[rnd.IntN(8)/7])
	}
	return b[:n]
}

func random(n int) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{3})
	_, err := c.Read(b)
	if err != nil {
		panic(err)
	}
	return b
}

// periods returns text that repeats itself at every distance from 1 to 40.
func periods() []byte {
	var b []byte
	for d := 1; d <= 40; d++ {
		for n := 1; n < 300; n += 7 {
			b = append(b, bytes.Repeat(random(d), n/d+2)...)
		}
	}
	return b
}

func must[T any](tb testing.TB) func(v T, err error) T {
	tb.Helper()
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func compressed(tb testing.TB, level int, text []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := must[*stdgzip.Writer](tb)(stdgzip.NewWriterLevel(&b, level))
	must[int](tb)(w.Write(text))
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// flushed has an empty stored block after every 10 kB.
func flushed(tb testing.TB, text []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := stdgzip.NewWriter(&b)
	for part := range slices.Chunk(text, 10_000) {
		must[int](tb)(w.Write(part))
		if err := w.Flush(); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// members has a member of its own for every n bytes of text.
func members(tb testing.TB, text []byte, n int, extra []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	for part := range slices.Chunk(text, n) {
		w := stdgzip.NewWriter(&b)
		w.Extra = extra
		must[int](tb)(w.Write(part))
		if err := w.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	return b.Bytes()
}

// body is a member without its header.
func body(tb testing.TB, text []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := must[*flate.Writer](tb)(flate.NewWriter(&b, 6))
	must[int](tb)(w.Write(text))
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return append(b.Bytes(), trailer(text)...)
}

func trailer(text []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(text))
	return binary.LittleEndian.AppendUint32(b, uint32(len(text)))
}

// fullHeader is a header with every optional field and its checksum; the name is
// as long as asked.
func fullHeader(nameLen int) []byte {
	h := []byte{0x1f, 0x8b, 8, 0x1e, 1, 2, 3, 4, 0, 255}
	h = append(h, 0x2c, 0x01)
	h = append(h, make([]byte, 300)...)
	h = append(h, bytes.Repeat([]byte("n"), nameLen)...)
	h = append(h, "\x00a comment\x00"...)
	return binary.LittleEndian.AppendUint16(h, uint16(crc32.ChecksumIEEE(h)))
}

// bitWriter writes deflate streams by hand.
type bitWriter struct {
	b     []byte
	nbits int
}

// bits appends the low n bits of v, lowest first.
func (w *bitWriter) bits(v uint32, n int) {
	for range n {
		if w.nbits%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[len(w.b)-1] |= byte(v&1) << (w.nbits % 8)
		v >>= 1
		w.nbits++
	}
}

// huff appends a Huffman code, highest bit first.
func (w *bitWriter) huff(v uint32, n int) {
	for i := n - 1; i >= 0; i-- {
		w.bits(v>>i, 1)
	}
}

// literal appends the fixed code of a byte.
func (w *bitWriter) literal(c byte) {
	if c < 144 {
		w.huff(0x30+uint32(c), 8)
		return
	}
	w.huff(0x190+uint32(c)-144, 9)
}

// match258 appends the longest match in fixed codes, at a distance of 32 KiB.
func (w *bitWriter) match258() {
	w.huff(0xc0+285-280, 8)
	w.huff(29, 5)
	w.bits(32768-24577, 13)
}

// member frames a deflate stream by hand as a gzip stream.
func member(deflate, text []byte) []byte {
	return slices.Concat([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}, deflate, trailer(text))
}

// hugeBlock has all literals in a single block of fixed codes.
func hugeBlock(text []byte) []byte {
	var w bitWriter
	w.bits(1|1<<1, 3)
	for _, c := range text {
		w.literal(c)
	}
	w.huff(0, 7)
	return member(w.b, text)
}

// farMatches encodes text, whose period is 32 KiB, with matches at the longest
// distance that there is, and a new block every 32 KiB.
func farMatches(text []byte) []byte {
	var w bitWriter
	w.bits(1<<1, 3)
	for _, c := range text[:32<<10] {
		w.literal(c)
	}
	for at := 32 << 10; at < len(text); {
		w.huff(0, 7)
		w.bits(1<<1, 3)
		for range 127 {
			w.match258()
			at += 258
		}
		for range 2 {
			w.literal(text[at])
			at++
		}
	}
	w.huff(0, 7)
	w.bits(1, 1)
	w.bits(1, 2)
	w.huff(0, 7)
	return member(w.b, text)
}

var errEnough = errors.New("enough")

// tarOf returns a tar of at most about size bytes of the files below a directory
// of the Go distribution.
func tarOf(tb testing.TB, dir string, size int) []byte {
	tb.Helper()
	root := filepath.Join(cmp.Or(os.Getenv("GOROOT"), build.Default.GOROOT), dir)
	_, err := os.Stat(root)
	require.Working(tb, "the Go distribution, which it reads", err)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if b.Len() >= size {
			return errEnough
		}
		return addFile(w, path)
	})
	if err != nil && !errors.Is(err, errEnough) {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func addFile(w *tar.Writer, path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h, err := tar.FileInfoHeader(info, "")
	if err != nil {
		return err
	}
	h.Name = filepath.ToSlash(path)
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
