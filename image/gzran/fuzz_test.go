package gzran_test

import (
	"bytes"
	stdflate "compress/flate"
	stdgzip "compress/gzip"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/brisk-project/brisk/image/gzran"
)

// fuzzLimit is how much output a fuzzed stream may have before it is given up.
const fuzzLimit = 4 << 20

// FuzzReader compares with compress/gzip: the same output, or both fail. Two
// differences are meant: what follows the last member is ignored here and an error
// there, and names of more than 511 bytes are an error there. Where there is
// output, every checkpoint must yield the rest of it.
func FuzzReader(f *testing.F) {
	text := append(words(1200), random(100)...)
	f.Add(compressed(f, 6, text))
	f.Add(compressed(f, 0, text))
	f.Add(flushed(f, text))
	f.Add(compressed(f, 6, make([]byte, 200_000)))
	f.Add(members(f, text[:300], 100, []byte("BC\x02\x00\x12\x34")))
	f.Add(append(fullHeader(3), body(f, text[:1000])...))
	f.Add(compressed(f, 6, periods()[:4000]))
	f.Add(hugeBlock([]byte("one block of fixed codes")))
	f.Add(append(compressed(f, 6, nil), 0, 0, 0))
	f.Fuzz(func(t *testing.T, gz []byte) {
		z, err := gzran.NewReader(bytes.NewReader(gz), gzran.Config{Spacing: gzran.MinSpacing})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.LimitReader(z, fuzzLimit))
		if len(got) == fuzzLimit {
			t.Skip("too much output")
		}
		want, wantErr := standard(gz[:int64(len(gz))-z.TrailingBytes()])
		var se *gzran.StreamError
		switch {
		case err != nil && (!errors.As(err, &se) || se.Offset < 0 || se.Offset > int64(len(gz))):
			t.Fatalf("error without a proper offset: %v", err)
		case err != nil && wantErr == nil:
			t.Fatalf("compress/gzip reads it: %v", err)
		case err == nil && wantErr != nil && (len(gz) < 512 || !errors.Is(wantErr, stdgzip.ErrHeader)):
			t.Fatalf("compress/gzip does not read it: %v", wantErr)
		case err == nil && wantErr == nil && !bytes.Equal(got, want):
			t.Fatalf("%d bytes differ from those of compress/gzip", len(got))
		case err == nil && z.InputSize()+z.TrailingBytes() != int64(len(gz)):
			t.Fatalf("InputSize %d, TrailingBytes %d of %d", z.InputSize(), z.TrailingBytes(), len(gz))
		}
		for _, cp := range z.Checkpoints() {
			resumeSame(t, gz, got, cp, err)
		}
	})
}

// FuzzInflate puts a deflate stream behind 40,000 known bytes, so that a checkpoint
// lies between them, and gives it the right checksum, so that whatever compress/flate
// accepts is compared to its end. Where both fail, the output before is the same.
func FuzzInflate(f *testing.F) {
	text := words(3000)
	f.Add(rawDeflate(f, text))
	f.Add(rawDeflate(f, make([]byte, 100_000)))
	f.Add(rawDeflate(f, periods()[:6000]))
	f.Add(rawDeflate(f, slices.Concat(text[:500], random(400), text[:700])))
	f.Add(hugeBlock(text[:200])[10:])
	known := random(40_000)
	history := slices.Concat([]byte{0, 0x40, 0x9c, 0xbf, 0x63}, known)
	f.Fuzz(func(t *testing.T, deflate []byte) {
		in := bytes.NewReader(slices.Concat(history, deflate))
		want, wantErr := io.ReadAll(io.LimitReader(stdflate.NewReader(in), fuzzLimit))
		if len(want) == fuzzLimit {
			t.Skip("too much output")
		}
		gz := member(slices.Concat(history, deflate)[:len(history)+len(deflate)-in.Len()], want)
		z, err := gzran.NewReader(bytes.NewReader(gz), gzran.Config{Spacing: gzran.MinSpacing})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(z)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("compress/flate says %v, this %v", wantErr, err)
		}
		if n := min(len(got), len(want)); !bytes.Equal(got[:n], want[:n]) || err == nil && len(got) != len(want) {
			t.Fatalf("output differs within %d and %d bytes", len(got), len(want))
		}
		for _, cp := range z.Checkpoints() {
			resumeSame(t, gz, got, cp, err)
		}
	})
}

func rawDeflate(tb testing.TB, text []byte) []byte {
	tb.Helper()
	b := body(tb, text)
	return b[:len(b)-8]
}

func standard(gz []byte) ([]byte, error) {
	r, err := stdgzip.NewReader(bytes.NewReader(gz))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// resumeSame checks that a checkpoint yields what the whole stream did, up to the
// same error. A checksum that was checked from the start cannot be checked again.
func resumeSame(t *testing.T, gz, want []byte, cp gzran.Checkpoint, wantErr error) {
	t.Helper()
	r, err := gzran.Resume(bytes.NewReader(gz[cp.In:]), cp)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, r)
	got, err := io.ReadAll(io.LimitReader(r, int64(len(want))-cp.Out))
	if err != nil || !bytes.Equal(got, want[cp.Out:]) {
		t.Fatalf("output from %d differs: %v", cp.Out, err)
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(r, fuzzLimit)); wantErr == nil && err != nil {
		t.Fatalf("output from %d: %v", cp.Out, err)
	}
}

// FuzzResume feeds hostile checkpoints: any outcome but a panic, an endless loop
// or an error of another kind is right.
func FuzzResume(f *testing.F) {
	text := bytes.Repeat(append(words(900), random(100)...), 300)
	gz := hugeBlock(text[:300])
	f.Add(gz[10:], int64(10), int64(100), uint8(gzran.KindBlock), uint8(0), []byte(nil))
	gz = flushed(f, text)
	for _, cp := range read(f, bytes.NewReader(gz), gzran.MinSpacing, text).Checkpoints() {
		f.Add(gz[cp.In:][:min(1000, len(gz)-int(cp.In))], cp.In, cp.Out, uint8(cp.Kind), cp.Bit, cp.Window)
	}
	f.Fuzz(func(t *testing.T, gz []byte, in, out int64, kind, bit uint8, window []byte) {
		cp := gzran.Checkpoint{In: in, Out: out, Kind: gzran.Kind(kind), Bit: bit, Window: window}
		r, err := gzran.Resume(bytes.NewReader(gz), cp)
		if err != nil {
			return
		}
		defer closing(t, r)
		_, err = io.Copy(io.Discard, io.LimitReader(r, fuzzLimit))
		var se *gzran.StreamError
		if err != nil && (!errors.As(err, &se) || se.Offset < in || se.Offset > in+int64(len(gz))) {
			t.Fatalf("error without a proper offset: %v", err)
		}
	})
}
