package zframes_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// layersEnv names gzip layers, separated by colons.
	layersEnv = "BRISK_SWEEP_LAYERS"
	// sweepBytes is how much of each layer is compressed at most.
	sweepBytes = 192 << 20
)

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// material is the beginning of a layer.
type material struct {
	name    string
	stream  []byte
	stored  int64 // bytes of its gzip form
	borders []int // where files of at least a block begin
}

func load(b *testing.B, path string) material {
	b.Helper()
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := file.Close(); err != nil {
			b.Error(err)
		}
	}()
	counted := &counter{from: file}
	zr, err := gzip.NewReader(counted)
	if err != nil {
		b.Fatal(err)
	}
	stream, err := io.ReadAll(io.LimitReader(zr, sweepBytes))
	if err != nil {
		b.Fatal(err)
	}
	m := material{name: filepath.Base(filepath.Dir(path))[:8], stream: stream, stored: counted.n}
	in := bytes.NewReader(stream)
	for tr := tar.NewReader(in); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return m
		}
		if err != nil {
			b.Fatal(err)
		}
		if header.Size >= block.Size {
			m.borders = append(m.borders, len(stream)-in.Len())
		}
	}
}

type counter struct {
	from io.Reader
	n    int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += int64(n)
	return n, err
}

// cuts returns where frames begin: every size bytes, and if files is set also where a large file begins.
func (m material) cuts(size int, files bool) []int {
	var at []int
	for off := 0; off < len(m.stream); {
		at = append(at, off)
		next := off + size
		if files {
			if i, _ := slices.BinarySearch(m.borders, off+1); i < len(m.borders) && m.borders[i] < next {
				next = m.borders[i]
			}
		}
		off = next
	}
	return append(at, len(m.stream))
}

// BenchmarkSweep compresses layers with every frame size and level: stored bytes in percent of the
// gzip form, CPU seconds to compress and to decode 1 GB, and how many stored bytes have to be read for a cold
// read of 4 KiB, of which the block has to be verified, on average and for the worst one in a hundred.
// The layers are those of BRISK_SWEEP_LAYERS. Run it with -benchtime 1x.
func BenchmarkSweep(b *testing.B) {
	paths := strings.FieldsFunc(os.Getenv(layersEnv), func(r rune) bool { return r == ':' })
	if len(paths) == 0 {
		b.Skipf("%s names no layers", layersEnv)
	}
	for _, path := range paths {
		m := load(b, path)
		for _, level := range []int{1, 3, 7, 11} {
			for _, size := range []int{256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20} {
				for _, files := range []bool{false, true} {
					b.Run(fmt.Sprintf("%s/level=%d/frame=%dKiB/files=%t", m.name, level, size>>10, files), func(b *testing.B) {
						for b.Loop() {
							sweep(b, m, level, size, files)
						}
					})
				}
			}
		}
	}
}

func sweep(b *testing.B, m material, level, size int, files bool) {
	b.Helper()
	window := zstd.MinWindowSize
	for window < size {
		window *= 2
	}
	// As a Compressor does it.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(window), zstd.WithEncoderCRC(false))
	if err != nil {
		b.Fatal(err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		b.Fatal(err)
	}
	defer dec.Close()
	cuts := m.cuts(size, files)
	frames := make([][]byte, len(cuts)-1)
	total := 0
	start := cpu(b)
	for i := range frames {
		frames[i] = enc.EncodeAll(m.stream[cuts[i]:cuts[i+1]], nil)
		total += len(frames[i])
	}
	packing := cpu(b) - start
	start = cpu(b)
	buf := make([]byte, 0, size)
	for _, f := range frames {
		if buf, err = dec.DecodeAll(f, buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
	unpacking := cpu(b) - start
	reads := make([]int, 0, len(m.stream)/block.Size)
	sum := 0
	for off := 0; off < len(m.stream); off += block.Size {
		first, found := slices.BinarySearch(cuts, off)
		if !found {
			first--
		}
		read := 0
		for i := first; i < len(frames) && cuts[i] < off+block.Size; i++ {
			read += len(frames[i])
		}
		reads = append(reads, read)
		sum += read
	}
	slices.Sort(reads)
	gigabytes := float64(len(m.stream)) / 1e9
	b.ReportMetric(100*float64(total)/float64(m.stored), "%gzip")
	b.ReportMetric(packing.Seconds()/gigabytes, "pack-cpu-s/GB")
	b.ReportMetric(unpacking.Seconds()/gigabytes, "unpack-cpu-s/GB")
	b.ReportMetric(float64(sum)/float64(len(reads))/1e3, "KB/read")
	b.ReportMetric(float64(reads[len(reads)*99/100])/1e3, "KB/worst-read")
	b.ReportMetric(0, "ns/op")
}
