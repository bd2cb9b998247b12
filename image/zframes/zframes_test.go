package zframes_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/zframes"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

// compress writes a stream in pieces of n bytes.
func compress(tb testing.TB, cfg zframes.Config, stream []byte, n int) []byte {
	tb.Helper()
	c, err := zframes.NewCompressor(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	var out bytes.Buffer
	w := c.NewWriter(&out)
	for len(stream) > 0 {
		k := min(n, len(stream))
		if written, err := w.Write(stream[:k]); err != nil || written != k {
			tb.Fatalf("wrote %d of %d bytes: %v", written, k, err)
		}
		stream = stream[k:]
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// check decodes a blob as a whole and, by its seek table, every frame alone.
func check(tb testing.TB, blob, stream []byte, frameSize int) {
	tb.Helper()
	dec, err := zstd.NewReader(bytes.NewReader(blob), zstd.WithDecoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	defer dec.Close()
	whole, err := io.ReadAll(dec)
	if err != nil || !bytes.Equal(whole, stream) {
		tb.Fatalf("decoded %d of %d bytes: %v", len(whole), len(stream), err)
	}
	// The footer: number of frames, descriptor, magic.
	footer := blob[len(blob)-9:]
	n := int(binary.LittleEndian.Uint32(footer))
	if footer[4] != 0 || binary.LittleEndian.Uint32(footer[5:]) != 0x8F92EAB1 || n != max(1, (len(stream)+frameSize-1)/frameSize) {
		tb.Fatalf("footer %x of %d bytes in frames of %d", footer, len(stream), frameSize)
	}
	start := len(blob) - 9 - 8*n
	header := blob[start-8 : start]
	if binary.LittleEndian.Uint32(header) != 0x184D2A5E || int(binary.LittleEndian.Uint32(header[4:])) != 8*n+9 {
		tb.Fatalf("header of the seek table %x", header)
	}
	at, off := 0, 0
	for i := range n {
		stored := int(binary.LittleEndian.Uint32(blob[start+8*i:]))
		content := int(binary.LittleEndian.Uint32(blob[start+8*i+4:]))
		got, err := dec.DecodeAll(blob[at:at+stored], nil)
		if err != nil || !bytes.Equal(got, stream[off:off+content]) || i < n-1 && content != frameSize {
			tb.Fatalf("frame %d: %d of %d bytes: %v", i, len(got), content, err)
		}
		at, off = at+stored, off+content
	}
	if at != start-8 || off != len(stream) {
		tb.Fatalf("frames end at bytes %d and %d, want %d and %d", at, off, start-8, len(stream))
	}
}

func prose(size int) []byte { return registrytest.RandomText(7, size) }

// Every decoder reads the blob, and every frame of it alone; neither how the stream is written nor
// how many processors there are changes a byte.
func TestRoundTrip(t *testing.T) {
	for _, frameSize := range []int{64 << 10, 100_000, 256 << 10, 4 << 20} {
		for _, size := range []int{0, 1, frameSize - 1, frameSize, frameSize + 1, 5*frameSize + 1000} {
			for kind, stream := range map[string][]byte{"prose": prose(size), "noise": blocktest.Random(3, size), "zeros": make([]byte, size)} {
				t.Run(fmt.Sprintf("%d/%d/%s", frameSize, size, kind), func(t *testing.T) {
					blob := compress(t, zframes.Config{FrameSize: frameSize, Parallel: 1}, stream, 1<<20)
					check(t, blob, stream, frameSize)
					if !bytes.Equal(blob, compress(t, zframes.Config{FrameSize: frameSize, Parallel: 7}, stream, 77_777)) {
						t.Error("written otherwise, with more processors, it is another blob")
					}
				})
			}
		}
	}
}

// A layer index of a blob has one frame for each block, and what follows the last one does not matter.
func TestIndexed(t *testing.T) {
	stream := registrytest.Tar(t, registrytest.Files(1, 5, 700_000)...)
	blob := compress(t, zframes.Config{}, stream, 100_000)
	built, err := index.Build(t.Context(), bytes.NewReader(blob), index.BuildConfig{})
	if err != nil {
		t.Fatal(err)
	}
	layer, err := index.Open(bytes.NewReader(built.Encoded), int64(len(built.Encoded)))
	if err != nil {
		t.Fatal(err)
	}
	if built.DiffID != block.Sum(stream) || built.BlobDigest != block.Sum(blob) || layer.FrameCount() != int(layer.BlockCount()) {
		t.Errorf("index of %s in %s with %d frames for %d blocks", built.DiffID, built.BlobDigest, layer.FrameCount(), layer.BlockCount())
	}
	for i := range layer.FrameCount() {
		frame, err := layer.Frame(i)
		if err != nil || frame.StreamOffset != int64(i)*block.Size {
			t.Errorf("frame %d: %+v, %v", i, frame, err)
		}
	}
}

type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// An error of what is written to stays, and nothing runs after the end.
func TestErrors(t *testing.T) {
	c, err := zframes.NewCompressor(zframes.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := c.NewWriter(&failing{left: 1 << 20})
	if _, err := io.Copy(w, bytes.NewReader(blocktest.Random(1, 16<<20))); !errors.Is(err, errFull) {
		t.Errorf("writing: %v", err)
	}
	if err := w.Close(); !errors.Is(err, errFull) {
		t.Errorf("closing: %v", err)
	}
	w = c.NewWriter(io.Discard)
	if _, err := w.Write(make([]byte, 3<<20)); err != nil {
		t.Error(err)
	}
	w.Abort()
	if _, err := w.Write([]byte("more")); err == nil {
		t.Error("writing after the end succeeded")
	}
	if err := w.Close(); err == nil {
		t.Error("a blob that was given up has an end")
	}
	for _, cfg := range []zframes.Config{{FrameSize: 1}, {FrameSize: 5 << 20}, {FrameSize: -1}} {
		if _, err := zframes.NewCompressor(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("a"), uint16(0), uint8(0))
	f.Add([]byte("some words to repeat "), uint16(20_000), uint8(5))
	f.Fuzz(func(t *testing.T, unit []byte, times uint16, piece uint8) {
		if len(unit)*int(times) > 4<<20 {
			t.Skip("too long to be worth it")
		}
		stream := append(bytes.Repeat(unit, int(times)), unit...)
		const frameSize = 64 << 10
		check(t, compress(t, zframes.Config{FrameSize: frameSize, Level: 1, Parallel: 2}, stream, 1+int(piece)*1000), stream, frameSize)
	})
}
