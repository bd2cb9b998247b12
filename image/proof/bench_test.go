package proof_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/proof"
	"github.com/brisk-project/brisk/internal/block"
)

// benchStream is a tar of about 64 MiB, with files of 4 KiB to 1 MiB.
func benchStream(b *testing.B) []byte {
	b.Helper()
	random := rand.NewChaCha8([32]byte{1})
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; buf.Len() < 64<<20; i++ {
		data := make([]byte, 4<<10<<(2*(i%5)))
		_, _ = random.Read(data) //nolint:errcheck // it cannot fail
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("dir%d/file%d", i%10, i), Mode: 0o644, Size: int64(len(data))}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

// BenchmarkProver reports the CPU time of proving a GB whose blocks are verified already: with
// their digests, and hashing each of them again.
func BenchmarkProver(b *testing.B) {
	stream := benchStream(b)
	digests := make([]block.Digest, block.Count(int64(len(stream))))
	for i := range digests {
		digests[i] = block.Sum(stream[i*block.Size : min((i+1)*block.Size, len(stream))])
	}
	for name, known := range map[string]func(i uint32) (block.Digest, bool){
		"hashed again": nil,
		"known":        func(i uint32) (block.Digest, bool) { return digests[i], true },
	} {
		b.Run(name, func(b *testing.B) {
			begin, rounds := processTime(b), 0
			for b.Loop() {
				p := proof.New(context.Background(), known)
				for off := 0; off < len(stream); off += block.Size {
					p.Write(stream[off:min(off+block.Size, len(stream))])
				}
				if truth, err := p.Finish(); err != nil || truth.Invalid != "" {
					b.Fatal(err, truth.Invalid)
				}
				rounds++
			}
			b.ReportMetric((processTime(b)-begin).Seconds()/(float64(rounds*len(stream))/1e9), "cpu-s/GB")
		})
	}
}

// processTime returns the CPU time of the process.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
