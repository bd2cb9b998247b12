package index_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/index"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is an index in version 1 of the format. Indexes in registries stay as
// they are, so it must be readable for ever.
var golden = filepath.Join("testdata", "v1.index")

func TestGolden(t *testing.T) {
	stream := sample(t)
	_, res := build(t, stream, index.BuildConfig{})
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, res.Encoded, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	old, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	l, err := index.Open(bytes.NewReader(old), int64(len(old)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantSample(), entries(t, l)); diff != "" {
		t.Errorf("entries of the golden file (-want +got):\n%s", diff)
	}
	checkStream(t, l, stream, stream)
	if !bytes.Equal(old, res.Encoded) {
		t.Error("the same layer gives another index than before: if only the compressor changed, use -update")
	}
}

// row reads a row of the section table.
func row(b []byte, i int) (name string, offset, stored uint64) {
	r := b[16+32*i:]
	return string(r[:4]), binary.LittleEndian.Uint64(r[8:]), binary.LittleEndian.Uint64(r[16:])
}

// withSection returns the index with one more section at its end.
func withSection(b []byte, name string, version, flags uint16, data string) []byte {
	count := binary.LittleEndian.Uint16(b[10:])
	table := 16 + 32*int(count)
	out := bytes.Clone(b[:table])
	binary.LittleEndian.PutUint16(out[10:], count+1)
	for i := range int(count) {
		at := out[16+32*i+8:]
		binary.LittleEndian.PutUint64(at, binary.LittleEndian.Uint64(at)+32)
	}
	out = append(out, name...)
	out = binary.LittleEndian.AppendUint16(out, version)
	out = binary.LittleEndian.AppendUint16(out, flags)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(b)+32))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(data)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(data)))
	return append(append(out, b[table:]...), data...)
}

func TestUnknownSections(t *testing.T) {
	_, res := build(t, sample(t), index.BuildConfig{})
	for name, c := range map[string]struct {
		section string
		version uint16
		flags   uint16
		want    string
	}{
		"optional":                       {"TRCE", 1, 0, ""},
		"optional with unknown flags":    {"TRCE", 1, 0x80, ""},
		"required":                       {"TRCE", 1, 1, "section TRCE"},
		"twice":                          {"ENTS", 1, 1, "section ENTS: appears twice"},
		"not printable":                  {"\x00\x01\x02\x03", 1, 0, "not printable"},
		"optional in another version":    {"WNDW", 2, 0, ""},
		"required in another version":    {"WNDW", 2, 1, "section WNDW: version 2"},
		"known with unknown flags":       {"WNDW", 1, 0x81, "section WNDW: unknown flags"},
		"windows of an uncompressed one": {"WNDW", 1, 1, "not compressed"},
	} {
		t.Run(name, func(t *testing.T) {
			b := withSection(res.Encoded, c.section, c.version, c.flags, "data")
			l, err := index.Open(bytes.NewReader(b), int64(len(b)))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(wantSample(), entries(t, l)); diff != "" {
					t.Error(diff)
				}
			} else if !errors.Is(err, index.ErrFormat) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrFormat with %q", err, c.want)
			}
		})
	}
}

// use reads all there is in an index. It returns the first error.
func use(b, blob []byte) error {
	l, err := index.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	for e, err := range l.Entries() {
		if err != nil {
			return err
		}
		if len(e.Path) > index.MaxPath || e.Size < 0 {
			return errors.New("impossible entry")
		}
	}
	for i := range min(l.FrameCount(), 64) {
		f, err := l.Frame(i)
		if err != nil || f.StreamLength <= 0 || f.StreamOffset < 0 || f.StreamOffset+f.StreamLength > l.StreamSize() ||
			f.BlobOffset < 0 || f.BlobLength <= 0 || f.BlobOffset+f.BlobLength > l.BlobSize() {
			return errors.New("impossible frame")
		}
		if f.BlobOffset > int64(len(blob)) {
			continue
		}
		r, err := l.Decode(i, 1, bytes.NewReader(blob[f.BlobOffset:]))
		if err != nil {
			continue
		}
		n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
		if closeErr := r.Close(); closeErr != nil {
			return closeErr
		}
		if err == nil && n != min(f.StreamLength, 1<<20) {
			return errors.New("short frame without an error")
		}
	}
	return nil
}

func TestDamagedIndex(t *testing.T) {
	stream := sample(t)
	for _, packing := range []string{"plain", "gzip", "zstd frames"} {
		t.Run(packing, func(t *testing.T) {
			blob := pack(t, packing, stream)
			_, res := build(t, blob, index.BuildConfig{Spacing: 100_000})
			good := res.Encoded
			if err := use(good, blob); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < len(good); n += 1 + len(good)/30 {
				if err := use(good[:n], blob); !errors.Is(err, index.ErrFormat) {
					t.Fatalf("%d of %d bytes: %v", n, len(good), err)
				}
			}
			if err := use(append(bytes.Clone(good), 0), blob); !errors.Is(err, index.ErrFormat) {
				t.Errorf("a byte too many: %v", err)
			}
			bad := bytes.Clone(good)
			for i := 0; i < len(good); i += 1 + i/16 { // the header densely, the rest here and there
				bad[i] ^= 0x15
				if err := use(bad, blob); err != nil && !errors.Is(err, index.ErrFormat) {
					t.Errorf("byte %d flipped: %v", i, err)
				}
				bad[i] = good[i]
			}
		})
	}
}

func TestErrorsNameTheSection(t *testing.T) {
	_, res := build(t, pack(t, "gzip", sample(t)), index.BuildConfig{})
	count := int(binary.LittleEndian.Uint16(res.Encoded[10:]))
	for i := range count {
		name, offset, stored := row(res.Encoded, i)
		if name == "DGST" || name == "WPRT" || name == "WNDW" {
			continue // any bytes are digests, and windows are read when they are needed
		}
		bad := bytes.Clone(res.Encoded)
		for j := range stored {
			bad[offset+j] = 0xff
		}
		if err := use(bad, nil); !errors.Is(err, index.ErrFormat) || !strings.Contains(err.Error(), name) {
			t.Errorf("section %s of ones: %v", name, err)
		}
	}
}

func TestOpenReadsFromFailingReader(t *testing.T) {
	_, res := build(t, sample(t), index.BuildConfig{})
	for n := range 6 {
		r := &failingReaderAt{ReaderAt: bytes.NewReader(res.Encoded), left: n}
		l, err := index.Open(r, int64(len(res.Encoded)))
		if err == nil {
			for _, err = range l.Entries() {
				if err != nil {
					break
				}
			}
		}
		if !errors.Is(err, io.ErrClosedPipe) || errors.Is(err, index.ErrFormat) {
			t.Errorf("after %d reads: %v, want the reader's error", n, err)
		}
	}
}

type failingReaderAt struct {
	io.ReaderAt

	left int
}

func (r *failingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	if r.left == 0 {
		return 0, io.ErrClosedPipe
	}
	r.left--
	return r.ReaderAt.ReadAt(p, off)
}

func TestConcurrentUse(t *testing.T) {
	stream := sample(t)
	blob := pack(t, "gzip", stream)
	l, _ := build(t, blob, index.BuildConfig{Spacing: 100_000})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for _, err := range l.Entries() {
				if err != nil {
					t.Error(err)
				}
			}
			f, err := l.Frame(1)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := decode(l, 1, 1, bytes.NewReader(blob[f.BlobOffset:])); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, err := range l.Entries() {
		if err != nil {
			t.Error(err)
		}
		break // stopping early leaves nothing behind
	}
}

func TestOutOfRange(t *testing.T) {
	stream := sample(t)
	for _, packing := range []string{"plain", "gzip", "zstd frames"} {
		blob := pack(t, packing, stream)
		l, _ := build(t, blob, index.BuildConfig{})
		n := l.FrameCount()
		for _, i := range []int{-1, n} {
			if f, err := l.Frame(i); err == nil {
				t.Errorf("%s: frame %d is %+v", packing, i, f)
			}
		}
		for _, off := range []int64{-1, l.StreamSize()} {
			if i, err := l.FrameAt(off); err == nil {
				t.Errorf("%s: FrameAt(%d) = %d", packing, off, i)
			}
		}
		for _, c := range [][2]int{{-1, 1}, {0, 0}, {0, n + 1}, {n, 1}, {1, n}} {
			if _, err := l.Decode(c[0], c[1], bytes.NewReader(blob)); err == nil {
				t.Errorf("%s: decoding %d frames from %d of %d", packing, c[1], c[0], n)
			}
		}
	}
}

func TestSeekable(t *testing.T) {
	var stream bytes.Buffer
	stream.Write(paxSparse(t, 9<<20, []int64{0, 9 << 20}, bytes.Repeat(noise(48<<10, 1), 192)))
	for packing, want := range map[string]bool{
		"plain": true, "gzip": true, "zstd": false, "zstd frames": true,
	} {
		l, res := build(t, pack(t, packing, stream.Bytes()), index.BuildConfig{})
		if l.Seekable() != want {
			t.Errorf("%s: seekable %v with %d frames", packing, l.Seekable(), res.Frames)
		}
	}
}

func TestSmallFramesAreJoined(t *testing.T) {
	stream := paxSparse(t, 4<<20, []int64{0, 4 << 20}, noise(4<<20, 1))
	_, res := build(t, zstdFrames(t, stream, 1000), index.BuildConfig{})
	if res.Frames < 8 || res.Frames > 20 {
		t.Errorf("%d frames for 4 MiB", res.Frames)
	}
	large := zstdFrames(t, stream, 600_000)
	if _, res = build(t, large, index.BuildConfig{}); res.Frames != 7 {
		t.Errorf("%d frames, want the 7 of the blob", res.Frames)
	}
}
