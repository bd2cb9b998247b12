package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Compression is how a layer is stored.
type Compression int

// The ways to store a layer.
const (
	Gzip Compression = iota
	Zstd             // one frame, or more when Layer.FrameSize is set
	None
)

// File is one file of a test layer. Files without data are directories when
// their name ends in a slash.
type File struct {
	Name string
	Data []byte
	Mode int64 // default 0644, 0755 for directories
}

// Tar makes the uncompressed tar of a layer.
func Tar(tb testing.TB, files ...File) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: f.Name, Mode: f.Mode, Size: int64(len(f.Data)),
			ModTime: time.Unix(1_700_000_000, 0), Format: tar.FormatPAX,
		}
		directory := f.Name[len(f.Name)-1] == '/'
		if directory {
			header.Typeflag = tar.TypeDir
		}
		if header.Mode == 0 {
			header.Mode = 0o644
			if directory {
				header.Mode = 0o755
			}
		}
		if err := w.WriteHeader(header); err != nil {
			tb.Fatalf("registrytest: %v", err)
		}
		if _, err := w.Write(f.Data); err != nil {
			tb.Fatalf("registrytest: %v", err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	return buf.Bytes()
}

// Files makes n files of size bytes each that compress to about half, the same
// ones for the same seed.
func Files(seed uint64, n, size int) []File {
	rng := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // test data must be the same in every run
	files := make([]File, 0, n+1)
	dir := fmt.Sprintf("data-%d/", seed)
	files = append(files, File{Name: dir})
	for i := range n {
		files = append(files, File{Name: fmt.Sprintf("%sfile-%04d", dir, i), Data: compressible(rng, size)})
	}
	return files
}

// compressible has 16 random bytes followed by the same 16 again, so that no
// range of it equals another and every wrong offset shows.
func compressible(rng *rand.Rand, size int) []byte {
	data := make([]byte, 0, size+32)
	for len(data) < size {
		start := len(data)
		data = binary.LittleEndian.AppendUint64(data, rng.Uint64())
		data = binary.LittleEndian.AppendUint64(data, rng.Uint64())
		data = append(data, data[start:]...)
	}
	return data[:size]
}

// RandomText returns size bytes of words of a small vocabulary: gzip refers far back in it, so that the
// checkpoints of an index have large windows. The same seed gives the same bytes.
func RandomText(seed uint64, size int) []byte {
	rng := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // test data must be the same in every run
	words := make([]string, 4000)
	for i := range words {
		words[i] = strconv.FormatUint(rng.Uint64()>>(rng.Uint64()%40), 16) + " "
	}
	text := make([]byte, 0, size+64)
	for len(text) < size {
		text = append(text, words[rng.Uint64()%uint64(len(words))]...)
	}
	return text[:size]
}

// Compress returns the stored form of a layer.
func Compress(tb testing.TB, l Layer) []byte {
	tb.Helper()
	switch l.Compression {
	case None:
		return l.Tar
	case Zstd:
		return compressZstd(tb, l)
	default:
		return compressGzip(tb, l)
	}
}

func compressGzip(tb testing.TB, l Layer) []byte {
	tb.Helper()
	level := l.Level
	if level == 0 {
		level = 6
	}
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, level)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	finish(tb, w, l.Tar)
	return buf.Bytes()
}

func compressZstd(tb testing.TB, l Layer) []byte {
	tb.Helper()
	level := zstd.SpeedDefault
	if l.Level > 0 {
		level = zstd.EncoderLevelFromZstd(l.Level)
	}
	var buf bytes.Buffer
	rest, frame := l.Tar, l.FrameSize
	if frame <= 0 {
		frame = max(1, len(rest))
	}
	for first := true; first || len(rest) > 0; first = false {
		n := min(frame, len(rest))
		w, err := zstd.NewWriter(&buf, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1))
		if err != nil {
			tb.Fatalf("registrytest: %v", err)
		}
		finish(tb, w, rest[:n])
		rest = rest[n:]
	}
	return buf.Bytes()
}

func finish(tb testing.TB, w io.WriteCloser, data []byte) {
	tb.Helper()
	if _, err := w.Write(data); err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	if err := w.Close(); err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
}
