package convert_test

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/test/registrytest"
)

// BenchmarkConvert converts an image made of the Go toolchain that runs the
// benchmark: three gzip layers, its commands and tools, its sources and its
// archives. It reports seconds of wall time and of CPU for one GB (10^9 bytes) of
// layer streams; the CPU time includes the registry's, which runs in the same
// process.
func BenchmarkConvert(b *testing.B) {
	r := registrytest.New(b, registrytest.Config{})
	var layers []registrytest.Layer
	for _, dir := range []string{"bin", "src", "pkg"} {
		layers = append(layers, registrytest.Layer{Tar: tarDir(b, filepath.Join(runtime.GOROOT(), dir))}) //nolint:staticcheck // the toolchain that runs this is the one wanted
	}
	r.Push(b, "go:v1", registrytest.Image{Layers: layers})
	client, err := registry.NewClient(registry.Config{Keychain: keychain{}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	ref, err := name.ParseReference(r.Addr() + "/go:v1")
	if err != nil {
		b.Fatal(err)
	}
	var stream, blob, indexes int64
	cpu := cpuTime(b)
	b.ResetTimer()
	for range b.N {
		result, err := convert.Convert(b.Context(), client, ref, convert.Config{Reindex: true})
		if err != nil {
			b.Fatal(err)
		}
		for _, l := range result.Layers {
			stream, blob, indexes = stream+l.StreamSize, blob+l.BlobSize, indexes+l.IndexSize
		}
	}
	b.StopTimer()
	gigabytes := float64(stream) / 1e9
	b.ReportMetric(b.Elapsed().Seconds()/gigabytes, "s/GB")
	b.ReportMetric((cpuTime(b)-cpu).Seconds()/gigabytes, "cpu-s/GB")
	b.ReportMetric(100*float64(indexes)/float64(blob), "%index")
	b.SetBytes(stream / int64(b.N))
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func tarDir(b *testing.B, dir string) []byte {
	b.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() && !info.IsDir() {
			return nil
		}
		header, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		if header.Name, err = filepath.Rel(filepath.Dir(dir), path); err != nil {
			return err
		}
		if err := w.WriteHeader(header); err != nil || info.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}
