package erofs_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
)

const (
	manyEntries = 100_000
	maxCPU      = 500 * time.Millisecond
	maxResident = 150 << 20
)

// manyTar writes a tar of so many entries as the packages of a large program have
// them: a tenth directories, some symbolic and hard links, every time different.
func manyTar(w io.Writer, entries int) error {
	rng := rand.New(rand.NewPCG(1, 2))
	tw := tar.NewWriter(w)
	data := bytes.Repeat([]byte("content "), 300)
	var dirs []string
	dir, last := "", ""
	for i := range entries {
		h := tar.Header{Mode: 0o644, ModTime: time.Unix(1_600_000_000+int64(i), int64(i)), Format: tar.FormatPAX}
		switch {
		case i%10 == 0:
			dir = fmt.Sprintf("package-%d/", i/10)
			if n := len(dirs); n > 0 && rng.IntN(4) > 0 {
				if parent := dirs[n-1-rng.IntN(min(n, 20))]; len(parent) < 180 {
					dir = parent + fmt.Sprintf("lib-%d/", i/10)
				}
			}
			dirs = append(dirs, dir)
			h.Name, h.Typeflag, h.Mode = dir, tar.TypeDir, 0o755
		case i%50 == 1:
			h.Name, h.Typeflag, h.Linkname = dir+"link", tar.TypeSymlink, "../target/of/the/link"
		case i%50 == 2 && last != "":
			h.Name, h.Typeflag, h.Linkname = fmt.Sprintf("%shard-%d", dir, i), tar.TypeLink, last
		default:
			h.Name, h.Typeflag, h.Size = fmt.Sprintf("%smodule-%d.js", dir, i), tar.TypeReg, int64(1+rng.IntN(600))
			last = h.Name
		}
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := tw.Write(data[:h.Size]); err != nil {
			return err
		}
	}
	return tw.Close()
}

// manyIndex returns the layer index of such a tar.
func manyIndex(tb testing.TB) []byte {
	tb.Helper()
	r, w := io.Pipe()
	go func() { w.CloseWithError(manyTar(w, manyEntries)) }()
	result, err := index.Build(tb.Context(), r, index.BuildConfig{})
	if err != nil {
		tb.Fatal(err)
	}
	return result.Encoded
}

func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// convert is what a node does with an index that has just arrived.
func convert(tb testing.TB, encoded []byte, w io.Writer) erofs.Stats {
	tb.Helper()
	layer, err := index.Open(bytes.NewReader(encoded), int64(len(encoded)))
	if err != nil {
		tb.Fatal(err)
	}
	tree, err := erofs.Merge([]*index.Layer{layer})
	if err != nil {
		tb.Fatal(err)
	}
	stats, err := erofs.Build(w, tree, erofs.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	return stats
}

func BenchmarkBuild100k(b *testing.B) {
	encoded := manyIndex(b)
	var stats erofs.Stats
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime(b)
	for range b.N {
		stats = convert(b, encoded, io.Discard)
	}
	b.ReportMetric((cpuTime(b)-start).Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(float64(stats.Size), "image-bytes")
	b.ReportMetric(float64(len(encoded)), "index-bytes")
}

const (
	childIndex = "BRISK_TEST_INDEX" // the path of an index for the child to convert
	childCPU   = "cpu-seconds: "
)

// TestBuildChild does the work of TestBuildBudget in a process of its own.
func TestBuildChild(t *testing.T) {
	path := os.Getenv(childIndex)
	if path == "" {
		t.Skip("started by TestBuildBudget only")
	}
	encoded, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Clean(path + ".erofs"))
	if err != nil {
		t.Fatal(err)
	}
	start := cpuTime(t)
	convert(t, encoded, f)
	t.Logf("%s%f", childCPU, (cpuTime(t) - start).Seconds())
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// The rootfs metadata of 100,000 entries takes little CPU time, the best of three
// runs because the machine does other things as well, and little memory: the peak
// of what the whole process has resident, the test program included.
func TestBuildBudget(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes time and memory of its own")
	}
	path := filepath.Join(t.TempDir(), "index")
	if err := os.WriteFile(path, manyIndex(t), 0o600); err != nil {
		t.Fatal(err)
	}
	best, resident := time.Hour, int64(0)
	for range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBuildChild$", "-test.v")
		cmd.Env = append(os.Environ(), childIndex+"="+path)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		_, figure, found := strings.Cut(string(out), childCPU)
		figure, _, _ = strings.Cut(figure, "\n")
		cpu, err := time.ParseDuration(figure + "s")
		if !found || err != nil {
			t.Fatalf("no CPU time in the output: %v\n%s", err, out)
		}
		best = min(best, cpu)
		usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok {
			t.Fatal("no resource usage")
		}
		resident = max(resident, usage.Maxrss<<10)
	}
	t.Logf("%d entries: %s of CPU time, %d MB resident at the peak", manyEntries, best.Round(time.Millisecond), resident/1e6)
	if best > maxCPU {
		t.Errorf("%s of CPU time, want at most %s", best, maxCPU)
	}
	if resident > maxResident {
		t.Errorf("%d bytes resident, want at most %d", resident, int64(maxResident))
	}
}
