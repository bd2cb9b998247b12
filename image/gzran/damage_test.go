package gzran_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/brisk-project/brisk/image/gzran"
)

func TestTruncated(t *testing.T) {
	t.Parallel()
	text := slices.Concat(words(1000), random(100), words(2000)[1000:])
	for name, gz := range map[string][]byte{
		"dynamic": slices.Concat(fullHeader(5), body(t, text)),
		"fixed":   hugeBlock(text),
		"stored":  compressed(t, 0, text),
		"flushed": flushed(t, text),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for n := range gz {
				got, err := inflate(bytes.NewReader(gz[:n]))
				var se *gzran.StreamError
				if !errors.As(err, &se) || !errors.Is(err, io.ErrUnexpectedEOF) || se.Offset != int64(n) {
					t.Fatalf("%d of %d bytes: %v", n, len(gz), err)
				}
				if !bytes.HasPrefix(text, got) {
					t.Fatalf("%d of %d bytes: output differs", n, len(gz))
				}
				if n == len(gz)-1 && len(got) != len(text) {
					t.Fatalf("only %d bytes of %d before the trailer", len(got), len(text))
				}
			}
		})
	}
}

func TestFlippedBits(t *testing.T) {
	t.Parallel()
	text := slices.Concat(words(1000), random(50))
	for name, gz := range map[string][]byte{
		"dynamic": compressed(t, 6, text),
		"fixed":   hugeBlock(text[:300]),
		"stored":  compressed(t, 0, text[:300]),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := inflate(bytes.NewReader(gz))
			if err != nil {
				t.Fatal(err)
			}
			for bit := 0; bit < 8*len(gz); bit += 3 {
				bad := bytes.Clone(gz)
				bad[bit/8] ^= 1 << (bit % 8)
				got, err := inflate(bytes.NewReader(bad))
				if err == nil && !bytes.Equal(got, want) {
					t.Fatalf("bit %d flipped: wrong output without an error", bit)
				}
				var se *gzran.StreamError
				if err != nil && (!errors.As(err, &se) || se.Offset > int64(len(gz))) {
					t.Fatalf("bit %d flipped: %v", bit, err)
				}
			}
		})
	}
}

func TestCorrupt(t *testing.T) {
	t.Parallel()
	hand := func(write func(w *bitWriter)) []byte {
		var w bitWriter
		write(&w)
		return member(w.b, make([]byte, 64))
	}
	good := compressed(t, 6, words(1000))
	wrong := func(back int) []byte {
		b := bytes.Clone(good)
		b[len(b)-back]++
		return b
	}
	for _, c := range []struct {
		name   string
		gz     []byte
		offset int64
		reason string
	}{
		{"no gzip", []byte("PK\x03\x04 is another format"), 0, "no gzip header"},
		{"unknown method", []byte("\x1f\x8b\x07 123456789"), 0, "no gzip header"},
		{"bad second member", slices.Concat(good, []byte("\x1f\x8b\x07")), int64(len(good)), "no gzip header"},
		{"checksum", wrong(8), int64(len(good)) - 8, "checksum of the member"},
		{"length", wrong(1), int64(len(good)) - 8, "length of the member"},
		{"reserved type", hand(func(w *bitWriter) { w.bits(7, 3) }), 10, "reserved deflate block type"},
		{"stored length", hand(func(w *bitWriter) { w.bits(1, 8); w.bits(5, 32) }), 11, "complement"},
		{"too many symbols", hand(func(w *bitWriter) { w.bits(5, 3); w.bits(31, 14) }), 12, "too many symbols"},
		{"no code for lengths", hand(func(w *bitWriter) { w.bits(5, 3); w.bits(0, 14); w.bits(0, 64) }), 13, "no such code length"},
		{"overfull code", hand(func(w *bitWriter) { w.bits(5, 3); w.bits(0, 14); w.bits(0o1111, 12) }), 13, "code length code"},
		{"invalid length", hand(func(w *bitWriter) { w.bits(3, 3); w.huff(0xc7, 8) }), 10, "no such literal"},
		{"invalid distance", hand(func(w *bitWriter) {
			w.bits(3, 3)
			w.literal('a')
			w.huff(1, 7)
			w.huff(30, 5)
		}), 12, "distance out of range"},
		{"distance before the start", hand(func(w *bitWriter) {
			w.bits(3, 3)
			w.literal('a')
			w.huff(1, 7)
			w.huff(1, 5)
		}), 12, "distance out of range"},
		{"distance into the member before", slices.Concat(good, hand(func(w *bitWriter) {
			w.bits(3, 3)
			w.huff(1, 7)
			w.huff(0, 5)
		})), int64(len(good)) + 11, "distance out of range"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// The same twice: with room for the fast loop behind the error, and without.
			for _, pad := range []int{0, 100} {
				_, err := inflate(bytes.NewReader(append(bytes.Clone(c.gz), make([]byte, pad)...)))
				var se *gzran.StreamError
				if !errors.As(err, &se) || !errors.Is(err, gzran.ErrCorrupt) {
					t.Fatalf("with %d bytes behind: %v", pad, err)
				}
				if se.Offset < c.offset || se.Offset > c.offset+1 || !strings.Contains(err.Error(), c.reason) {
					t.Errorf("with %d bytes behind: %v; want %q at byte %d", pad, err, c.reason, c.offset)
				}
			}
		})
	}
}

func TestReadError(t *testing.T) {
	t.Parallel()
	text := words(400_000)
	gz := compressed(t, 6, text)
	broken := errors.New("cable pulled")
	for _, n := range []int{0, 5, 1000, len(gz) - 3, len(gz)} {
		got, err := inflate(io.MultiReader(bytes.NewReader(gz[:n]), iotest.ErrReader(broken)))
		var se *gzran.StreamError
		if !errors.As(err, &se) || !errors.Is(err, broken) || se.Offset != int64(n) {
			t.Errorf("reader broken after %d bytes: %v", n, err)
		}
		if !bytes.HasPrefix(text, got) || n > len(gz)/2 && len(got) < len(text)/3 {
			t.Errorf("reader broken after %d bytes: wrong output of %d bytes", n, len(got))
		}
	}
	if _, err := inflate(iotest.ErrReader(nil)); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("reader that never returns anything: %v", err)
	}
}
