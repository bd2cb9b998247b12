package index_test

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/brisk-project/brisk/image/gzran"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/require"
)

// treeEnv names a directory to measure instead of the Go toolchain's own.
const treeEnv = "BRISK_BENCH_TREE"

// treeBlob is a tar of the Go toolchain, or of the directory that is asked for,
// through the compressor.
func treeBlob(b *testing.B, compressor ...string) (blob []byte, streamSize int64) {
	b.Helper()
	dir := runtime.GOROOT() //nolint:staticcheck // any large tree will do, and this one is where tests run
	if d := os.Getenv(treeEnv); d != "" {
		dir = d
	}
	stream, err := exec.CommandContext(b.Context(), require.Tool(b, "tar"), "--sort=name", "-C", dir, "-cf", "-", ".").Output()
	if err != nil {
		b.Fatal(err)
	}
	if len(compressor) == 0 {
		return stream, int64(len(stream))
	}
	cmd := exec.CommandContext(b.Context(), require.Tool(b, compressor[0]), compressor[1:]...)
	cmd.Stdin = bytes.NewReader(stream)
	if blob, err = cmd.Output(); err != nil {
		b.Fatal(err)
	}
	return blob, int64(len(stream))
}

// BenchmarkBuild indexes a real tree. It reports the size of the index as a share
// of the blob, and CPU seconds per GB of the layer stream.
func BenchmarkBuild(b *testing.B) {
	for name, compressor := range map[string][]string{
		"plain": nil, "gzip": {"gzip", "-6"}, "zstd": {"zstd", "-3"},
	} {
		b.Run(name, func(b *testing.B) {
			blob, size := treeBlob(b, compressor...)
			b.SetBytes(size)
			var res *index.Result
			before := cpuSeconds(b)
			b.ResetTimer()
			for b.Loop() {
				var err error
				if res, err = index.Build(b.Context(), bytes.NewReader(blob), index.BuildConfig{}); err != nil {
					b.Fatal(err)
				}
			}
			gb := float64(size) * float64(b.N) / 1e9
			b.ReportMetric((cpuSeconds(b)-before)/gb, "cpu-s/GB")
			b.ReportMetric(b.Elapsed().Seconds()/gb, "s/GB")
			b.ReportMetric(100*float64(len(res.Encoded))/float64(len(blob)), "%blob")
			for _, s := range res.Sections {
				b.ReportMetric(100*float64(s.Stored)/float64(len(blob)), "%"+s.Name)
			}
			b.ReportMetric(float64(res.Frames), "frames")
		})
	}
}

// BenchmarkStages measures what [index.Build] does to a gzip blob one by one, in
// CPU seconds per GB of the layer stream. The first two run beside the other two.
func BenchmarkStages(b *testing.B) {
	blob, size := treeBlob(b, "gzip", "-6")
	zr, err := gzran.NewReader(bytes.NewReader(blob), gzran.Config{})
	if err != nil {
		b.Fatal(err)
	}
	stream, err := io.ReadAll(zr)
	if err != nil {
		b.Fatal(err)
	}
	for name, stage := range map[string]func() error{
		"blob digest": func() error { block.Sum(blob); return nil },
		"inflate": func() error {
			zr, err := gzran.NewReader(bytes.NewReader(blob), gzran.Config{})
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, zr)
			return err
		},
		"stream digests": func() error {
			block.Sum(stream)
			for rest := stream; len(rest) > 0; rest = rest[min(block.Size, len(rest)):] {
				block.Sum(rest[:min(block.Size, len(rest))])
			}
			return nil
		},
		"parse": func() error { return index.Parse(b.Context(), stream) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			before := cpuSeconds(b)
			for b.Loop() {
				if err := stage(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpuSeconds(b)-before)/(float64(size)*float64(b.N)/1e9), "cpu-s/GB")
		})
	}
}

func cpuSeconds(b *testing.B) float64 {
	b.Helper()
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return float64(ru.Utime.Nano()+ru.Stime.Nano()) / 1e9
}
