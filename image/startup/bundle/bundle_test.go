package bundle_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/image/startup/bundle"
	"github.com/brisk-project/brisk/internal/block"
)

// streams are layer streams in memory.
type streams map[block.Digest][]byte

// ReadStream implements bundle.Reader.
func (s streams) ReadStream(_ context.Context, layer block.Digest, p []byte, off int64) error {
	content := s[layer]
	if off > int64(len(content)) || copy(p, content[off:]) < len(p) {
		return fmt.Errorf("%d bytes at %d are not there", len(p), off)
	}
	return nil
}

func (s streams) layers() []bundle.Layer {
	var all []bundle.Layer
	for id, content := range s {
		all = append(all, bundle.Layer{ID: id, Size: int64(len(content))})
	}
	slices.SortFunc(all, func(a, b bundle.Layer) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all
}

// sample returns two layers, one of which ends within a page, and a trace that reads some of
// each: pages in no order, the end of the first layer, and what no layer has.
func sample(size int) (streams, []bundle.Span) {
	random := rand.NewChaCha8([32]byte{1})
	all := streams{}
	var ids []block.Digest
	for i, n := range []int{size + 1234, size} {
		content := make([]byte, n)
		_, _ = random.Read(content) //nolint:errcheck // it never fails
		for j := range n / 2 {      // half of it compresses
			content[j] = byte(j / 100)
		}
		id := block.Sum([]byte{byte(i)})
		all[id], ids = content, append(ids, id)
	}
	const page = bundle.PageSize
	end := int64(size) / page * page
	trace := []bundle.Span{
		{Layer: ids[1], Offset: 3 * page, Length: 2 * page},
		{Layer: block.Sum([]byte("none")), Offset: 0, Length: page},
		{Layer: ids[0], Offset: end, Length: 10 * page},
		{Layer: ids[1], Offset: 0, Length: 3 * page},
		{Layer: ids[0], Offset: 0, Length: end},
	}
	return all, trace
}

func build(tb testing.TB, all streams, trace []bundle.Span, cfg bundle.BuildConfig) *bundle.Bundle {
	tb.Helper()
	cfg.Layers, cfg.Stream = all.layers(), all
	built, err := bundle.Build(tb.Context(), trace, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return built
}

// decode returns the content of the frames of a blob.
func decode(blob io.Reader, size int64, digest block.Digest) (*bundle.Table, []byte, error) {
	table, _, err := bundle.ReadTable(blob, size, digest)
	if err != nil {
		return nil, nil, err
	}
	decoder, err := bundle.NewDecoder(1)
	if err != nil {
		return nil, nil, err
	}
	defer decoder.Close()
	var content []byte
	err = table.ReadFrames(blob, 0, func(i int, stored []byte) error {
		raw, err := decoder.Decode(table, i, stored, nil)
		content = append(content, raw...)
		return err
	})
	return table, content, err
}

func TestBundleHasTheBytesOfItsTraceInOrder(t *testing.T) {
	t.Parallel()
	all, trace := sample(1 << 20)
	built := build(t, all, trace, bundle.BuildConfig{FrameSize: 128 << 10})
	table, content, err := decode(iotest.OneByteReader(bytes.NewReader(built.Blob)), built.TableSize, built.TableDigest())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(built.Table, table); diff != "" {
		t.Errorf("table (-built +read):\n%s", diff)
	}
	var want []byte
	for _, s := range table.Spans {
		want = append(want, all[s.Layer][s.Offset:s.Offset+s.Length]...)
	}
	if !bytes.Equal(content, want) || len(table.Spans) != 4 || table.Spans[1].Length != 1234 {
		t.Errorf("%d bytes of %v, want %d", len(content), table.Spans, len(want))
	}
	// Any zstd decoder reads it.
	plain, err := zstd.NewReader(bytes.NewReader(built.Blob))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if got, err := io.ReadAll(plain); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a plain decoder reads %d bytes: %v", len(got), err)
	}
	if again := build(t, all, trace, bundle.BuildConfig{FrameSize: 128 << 10}); !bytes.Equal(again.Blob, built.Blob) {
		t.Error("built again it is another one")
	}
}

func TestEmptyBundle(t *testing.T) {
	t.Parallel()
	built := build(t, streams{}, nil, bundle.BuildConfig{})
	table, content, err := decode(bytes.NewReader(built.Blob), built.TableSize, built.TableDigest())
	if err != nil || len(content) != 0 || table.Bytes() != 0 {
		t.Errorf("%d bytes: %v", len(content), err)
	}
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	all, trace := sample(1 << 20)
	for name, cfg := range map[string]bundle.BuildConfig{
		"small frames": {FrameSize: 4096}, "large frames": {FrameSize: 8 << 20}, "odd frames": {FrameSize: 100_000},
		"missing stream": {Stream: streams{}},
	} {
		cfg.Layers = all.layers()
		if cfg.Stream == nil {
			cfg.Stream = all
		}
		if _, err := bundle.Build(t.Context(), trace, cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	overlap := []bundle.Span{trace[0], {Layer: trace[0].Layer, Offset: trace[0].Offset + 4096, Length: 8192}}
	if _, err := bundle.Build(t.Context(), overlap, bundle.BuildConfig{Layers: all.layers(), Stream: all}); err == nil {
		t.Error("a trace with a byte twice: no error")
	}
}

// TestDamageIsFound changes every byte of a blob in turn.
func TestDamageIsFound(t *testing.T) {
	t.Parallel()
	all, trace := sample(64 << 10)
	built := build(t, all, trace, bundle.BuildConfig{FrameSize: 64 << 10})
	_, want, err := decode(bytes.NewReader(built.Blob), built.TableSize, built.TableDigest())
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(built.Blob); i += 1 + len(built.Blob)/4000 {
		blob := bytes.Clone(built.Blob)
		blob[i] ^= 1 << (i % 8)
		_, content, err := decode(bytes.NewReader(blob), built.TableSize, built.TableDigest())
		// A bit of the frame's header that no decoder uses may change.
		if err == nil && !bytes.Equal(content, want) || err != nil && !errors.Is(err, block.ErrCorrupt) {
			t.Errorf("byte %d is wrong, %d bytes are read: %v", i, len(content), err)
		}
	}
	for _, n := range []int64{0, 7, built.TableSize - 1, built.TableSize, int64(len(built.Blob)) - 1} {
		if _, _, err := decode(bytes.NewReader(built.Blob[:n]), built.TableSize, built.TableDigest()); err == nil {
			t.Errorf("cut to %d bytes it is read", n)
		}
	}
}

// TestBombIsRefused decodes frames that hold more than they say.
func TestBombIsRefused(t *testing.T) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 64<<20)
	bomb := enc.EncodeAll(zeros, nil)
	layer := bundle.Layer{ID: block.Sum([]byte("a")), Size: 1 << 30}
	table := &bundle.Table{
		FrameSize: bundle.MinFrameSize, Layers: []bundle.Layer{layer},
		Spans:  []bundle.Span{{Layer: layer.ID, Length: bundle.MinFrameSize}},
		Frames: []bundle.Frame{{Stored: int64(len(bomb)), Digest: block.Sum(zeros)}},
	}
	decoder, err := bundle.NewDecoder(1)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := decoder.Decode(table, 0, bomb, nil); !errors.Is(err, block.ErrCorrupt) {
		t.Errorf("a frame of %d bytes that holds %d: %v", bundle.MinFrameSize, len(zeros), err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 8<<20 {
		t.Errorf("refusing it took %d bytes of memory", used)
	}
}

func FuzzParseTable(f *testing.F) {
	all, trace := sample(64 << 10)
	built := build(f, all, trace, bundle.BuildConfig{FrameSize: 64 << 10})
	good := built.Blob[:built.TableSize]
	empty := build(f, streams{}, nil, bundle.BuildConfig{})
	f.Add(good)
	f.Add(empty.Blob)
	f.Add(good[:len(good)-1])
	for i := 8; i < len(good); i += 13 {
		bad := bytes.Clone(good)
		bad[i]++
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		table, err := bundle.ParseTable(encoded)
		if err != nil {
			return
		}
		again, err := table.Encode()
		if err != nil || !bytes.Equal(again, encoded) {
			t.Errorf("%v is encoded otherwise: %v", table, err)
		}
		total := int64(0)
		for i := range table.Frames {
			total += table.FrameLength(i)
		}
		if total != table.Bytes() || total > bundle.MaxBytes {
			t.Errorf("%d bytes in frames, %d in spans", total, table.Bytes())
		}
	})
}

func FuzzDecode(f *testing.F) {
	all, trace := sample(32 << 10)
	built := build(f, all, trace[:1], bundle.BuildConfig{FrameSize: 64 << 10})
	decoder, err := bundle.NewDecoder(1)
	if err != nil {
		f.Fatal(err)
	}
	defer decoder.Close()
	want := all[trace[0].Layer][trace[0].Offset:][:trace[0].Length]
	f.Add(built.Blob[built.TableSize:])
	f.Fuzz(func(t *testing.T, stored []byte) {
		got, err := decoder.Decode(built.Table, 0, stored, nil)
		if err == nil && !bytes.Equal(got, want) {
			t.Errorf("%d bytes that are not those of the trace", len(got))
		}
	})
}
