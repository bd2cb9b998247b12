package bundle_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/startup/bundle"
	"github.com/brisk-project/brisk/internal/block"
)

// sweepBytes is how much the sweep reads: about as much as the start of a Node.js application.
const sweepBytes = 48 << 20

// sweepContent is program text and programs, half of each: sources and tools of Go.
func sweepContent(b *testing.B) []byte {
	b.Helper()
	root := os.Getenv("GOROOT")
	if root == "" {
		root = runtime.GOROOT() //nolint:staticcheck // the tree that this test is built with
	}
	content := make([]byte, 0, sweepBytes)
	for _, dir := range []string{"src", "bin", "pkg"} {
		limit := sweepBytes
		if dir == "src" {
			limit /= 2
		}
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || len(content) >= limit {
				return err
			}
			file, err := os.ReadFile(path)
			content = append(content, file[:min(len(file), limit-len(content))]...)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	return content
}

func cpu(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkSweep builds and decodes bundles of every frame size and level: the stored bytes in
// percent of the content, MB of content that a second of one processor decodes and verifies,
// and seconds of one processor to build 100 MB. Run it with -benchtime 1x.
func BenchmarkSweep(b *testing.B) {
	content := sweepContent(b)
	id := block.Sum(content)
	all := streams{id: content}
	trace := []bundle.Span{{Layer: id, Length: int64(len(content))}}
	for _, frame := range []int64{64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 4 << 20} {
		for _, level := range []int{1, 3, 7, 11} {
			b.Run(fmt.Sprintf("frame=%dKiB/level=%d", frame>>10, level), func(b *testing.B) {
				var built *bundle.Bundle
				var building, decoding time.Duration
				decoder, err := bundle.NewDecoder(1)
				if err != nil {
					b.Fatal(err)
				}
				defer decoder.Close()
				buf := make([]byte, 0, frame)
				for b.Loop() {
					start := cpu(b)
					built = build(b, all, trace, bundle.BuildConfig{FrameSize: frame, Level: level})
					building += cpu(b) - start
					start = cpu(b)
					at := built.TableSize
					for i, f := range built.Table.Frames {
						if _, err := decoder.Decode(built.Table, i, built.Blob[at:at+f.Stored], buf); err != nil {
							b.Fatal(err)
						}
						at += f.Stored
					}
					decoding += cpu(b) - start
				}
				n := float64(b.N)
				mb := float64(len(content)) / 1e6
				b.ReportMetric(100*float64(len(built.Blob))/float64(len(content)), "%stored")
				b.ReportMetric(mb*n/decoding.Seconds(), "MB-decoded/cpu-s")
				b.ReportMetric(building.Seconds()/n*100/mb, "cpu-s/100MB-built")
			})
		}
	}
}
