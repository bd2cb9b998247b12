package startup_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

const magic = "brisk trace 1\n"

func TestFile(t *testing.T) {
	t.Parallel()
	end := pages("b", 3, 1)
	end.Length = 17
	for name, f := range map[string]startup.File{
		"empty":     {},
		"usual":     {Trace: startup.Trace{pages("a", 7, 2), pages("b", 0, 1), pages("a", 5, 1)}, Command: "nginx -g 'daemon off;'"},
		"predicted": {Trace: startup.Trace{pages("a", 1<<36, 1), end}, Predicted: true},
		"list":      {Trace: startup.Trace{pages("a", 0, 1)}, List: true},
		"longest":   {Trace: longest(), Command: strings.Repeat("x", startup.MaxCommand)},
	} {
		encoded, err := f.Encode()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := startup.ParseFile(encoded)
		want := startup.Trace(nil).Union(f.Trace) // in whole pages
		if err != nil || !slices.Equal(got.Trace, want) || got.Command != f.Command || got.Predicted != f.Predicted {
			t.Errorf("%s: %d bytes were read as %d spans for %.20q, predicted %v: %v", name, len(encoded), len(got.Trace), got.Command, got.Predicted, err)
		}
	}
	if _, err := (startup.File{Command: strings.Repeat("x", startup.MaxCommand+1)}).Encode(); err == nil {
		t.Error("a command that is too long was encoded")
	}
}

// longest returns a trace with as many spans as there can be, which compresses as badly as it can.
func longest() startup.Trace {
	random := rand.New(rand.NewPCG(1, 2))
	layers := make([]string, startup.MaxLayers)
	for i := range layers {
		layers[i] = string(rune(i))
	}
	starts := make([]int64, startup.MaxBlocks)
	for i := range starts {
		starts[i] = int64(random.Uint32N(math.MaxUint32)) * block.Size / page
	}
	var all startup.Recorder
	for _, i := range random.Perm(startup.MaxSpans) {
		n := i % startup.MaxBlocks
		all.Add(pages(layers[n%len(layers)], starts[n]+int64(i/startup.MaxBlocks)*2, 1))
	}
	return all.Trace()
}

// frame compresses what a test has written by hand.
func frame(tb testing.TB, body []byte) []byte {
	tb.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	return enc.EncodeAll(body, nil)
}

// body returns the decompressed bytes of a trace of one layer: magic, flags, command, layers, spans.
func body(flags, command, layers, spans uint64, numbers ...int64) []byte {
	b := append([]byte(magic), byte(flags))
	b = binary.AppendUvarint(b, command)
	b = append(b, bytes.Repeat([]byte{'c'}, int(min(command, 10)))...)
	b = binary.AppendUvarint(b, layers)
	b = append(b, make([]byte, min(layers, 1000)*32)...)
	b = binary.AppendUvarint(b, spans)
	for i := 0; i+2 < len(numbers); i += 3 {
		b = binary.AppendUvarint(b, uint64(numbers[i]))
		b = binary.AppendVarint(b, numbers[i+1])
		b = binary.AppendUvarint(b, uint64(numbers[i+2]))
	}
	return b
}

// hostile returns traces that must be refused.
func hostile(tb testing.TB) map[string][]byte {
	tb.Helper()
	good, err := startup.Trace{pages("a", 7, 2), pages("b", 0, 1)}.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	const most = startup.MaxBlocks * block.Size / page
	refused := map[string][]byte{
		"nothing": nil, "half": good[:len(good)/2], "flipped": flipped, "tail": append(bytes.Clone(good), '\n'),
		"not compressed": []byte(magic), "old file": []byte("brisk trace 1 sha256:00\n{}"), "long": make([]byte, startup.MaxEncoded+1),
	}
	for name, b := range map[string][]byte{
		"version": []byte("brisk trace 2\n"), "unknown flag": body(4, 0, 1, 1, 0, 0, 1), "command": body(0, startup.MaxCommand+1, 1, 0),
		"layers": body(0, 0, startup.MaxLayers+1, 0), "10 million spans": body(0, 0, 1, 10e6), "endless spans": body(0, 0, 1, math.MaxUint64),
		"spans cut short": body(0, 0, 1, 2, 0, 0, 1), "bytes after": append(body(0, 0, 1, 1, 0, 0, 1), 0), "no layer": body(0, 0, 0, 1, 0, 0, 1),
		"unknown layer": body(0, 0, 1, 1, 1, 0, 1), "page twice": body(0, 0, 1, 2, 0, 0, 2, 0, -1, 1), "layer twice": body(0, 0, 2, 2, 0, 0, 1, 1, 0, 1),
		"before the start": body(0, 0, 1, 1, 0, -1, 1), "overflow": body(0, 0, 1, 2, 0, 0, 1, 0, math.MaxInt64, 1), "no page": body(0, 0, 1, 1, 0, 0, 0),
		"past the last block": body(0, 0, 1, 1, 0, math.MaxUint32*64-1, 2), "too many pages": body(0, 0, 1, 1, 0, 0, most+1),
		"too many blocks": body(0, 0, 1, 1, 0, 1, most), "bomb": append(body(0, 0, 1, 0), make([]byte, 16<<20)...),
	} {
		refused[name] = frame(tb, b)
	}
	return refused
}

func TestHostileFilesAreRefused(t *testing.T) {
	t.Parallel()
	for name, encoded := range hostile(t) {
		if got, err := startup.ParseFile(encoded); err == nil || got.Trace != nil {
			t.Errorf("%s: %d spans, %v", name, len(got.Trace), err)
		}
	}
}

func FuzzParse(f *testing.F) {
	good, err := startup.File{Trace: startup.Trace{pages("a", 7, 2), pages("b", 0, 1), pages("a", 5, 1)}, Command: "app"}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(body(1, 3, 2, 2, 0, 7, 2, 1, 0, 1))
	for name, bad := range hostile(f) {
		if name != "bomb" && name != "long" {
			f.Add(bad)
		}
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, encoded := range [][]byte{content, enc.EncodeAll(content, nil), enc.EncodeAll(append([]byte(magic), content...), nil)} {
			got, err := startup.ParseFile(encoded)
			if err != nil {
				continue
			}
			again, err := got.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if back, err := startup.ParseFile(again); err != nil || !cmp.Equal(got, back) || got.Trace.Bytes() > startup.MaxBlocks*block.Size {
				t.Errorf("%v was read as %v: %v", got, back, err)
			}
		}
	})
}

func TestJoin(t *testing.T) {
	t.Parallel()
	a := startup.File{Trace: startup.Trace{pages("a", 7, 2)}, Command: "app"}
	b := startup.File{Trace: startup.Trace{pages("a", 8, 2), pages("b", 0, 1)}, Command: "app", Predicted: true}
	want := startup.File{Trace: startup.Trace{pages("a", 7, 3), pages("b", 0, 1)}, Command: "app", Predicted: true}
	if diff := cmp.Diff(want, startup.Join([]startup.File{a, b})); diff != "" {
		t.Error(diff)
	}
	b.Command, b.Predicted = "other", false
	want.Command, want.Predicted = "", false
	if diff := cmp.Diff(want, startup.Join([]startup.File{a, b})); diff != "" {
		t.Error(diff)
	}
}

// TestJoinPutsListsFirst joins a prefetch list with a trace before it. The list does not change what is
// known of the trace.
func TestJoinPutsListsFirst(t *testing.T) {
	t.Parallel()
	read := startup.File{Trace: startup.Trace{pages("a", 8, 2)}, Command: "app", Predicted: true}
	list := startup.File{Trace: startup.Trace{pages("b", 0, 1), pages("a", 7, 2)}, List: true}
	want := startup.File{Trace: startup.Trace{pages("b", 0, 1), pages("a", 7, 3)}, Command: "app", Predicted: true}
	if diff := cmp.Diff(want, startup.Join([]startup.File{read, list})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(list, startup.Join([]startup.File{list})); diff != "" {
		t.Error(diff)
	}
}

// TestLongListLeavesRoom joins a list that is as long as a trace can be with one that was recorded.
func TestLongListLeavesRoom(t *testing.T) {
	t.Parallel()
	const perBlock = block.Size / startup.PageSize
	list := startup.Trace{pages("list", 0, startup.MaxBlocks*perBlock)}
	for blocks, want := range map[int64]int64{1: startup.MaxBlocks - 1, 100: startup.MaxBlocks - 100, startup.MaxBlocks: startup.MaxBlocks / 2} {
		read := pages("read", 0, blocks*perBlock)
		got := startup.Listed(list, startup.Trace{read})
		read.Length = min(read.Length, (startup.MaxBlocks-want)*block.Size)
		if diff := cmp.Diff(startup.Trace{pages("list", 0, want*perBlock), read}, got); diff != "" {
			t.Errorf("%d blocks were recorded:\n%s", blocks, diff)
		}
	}
	if diff := cmp.Diff(list, startup.Listed(list, nil)); diff != "" {
		t.Error(diff)
	}
}
