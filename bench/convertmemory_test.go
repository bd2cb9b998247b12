//go:build !race

package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

const (
	// scaleLayers is how many layers an image of scaleImage has.
	scaleLayers = 4
	// scaleModules is how many files of an image its program loads: so many that a prediction reads as much as it may.
	scaleModules = 1000
)

// scale is the size of an image, and what its conversion may take of memory.
type scale struct {
	files              int
	bytes              int64
	indexRSS, fullRSS  float64 // in bytes
	leastPredictedSize int64
}

// image makes an image of many files of words and noise, which gzip halves, and of a program of Node.js that loads some of them.
func (s *scale) image(_ context.Context, scratch string) (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	for n := range scaleLayers {
		path := filepath.Join(scratch, "layer"+strconv.Itoa(n)+".tar.gz")
		if err := s.writeLayer(path, n); err != nil {
			return nil, err
		}
		layer, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, err
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			return nil, err
		}
	}
	return mutate.Config(image, v1.Config{Entrypoint: []string{"/usr/bin/node", "/main.js"}})
}

// fileName returns the name of file i of layer n.
func fileName(n, i int) string { return fmt.Sprintf("layer%d/dir%d/file%d.js", n, i/100, i) }

// writeProgram writes a program and a source that loads files of all layers.
func (s *scale) writeProgram(w *tar.Writer) error {
	program, err := exec.LookPath("true")
	if err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Clean(program))
	if err != nil {
		return err
	}
	var source bytes.Buffer
	for i := range scaleModules {
		fmt.Fprintf(&source, "require('/%s')\n", fileName(i%scaleLayers, i*(s.files/scaleLayers)/scaleModules))
	}
	for name, data := range map[string][]byte{"usr/bin/node": content, "main.js": source.Bytes()} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}

func (s *scale) writeLayer(path string, n int) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // closed below where it matters
	packed, err := gzip.NewWriterLevel(file, gzip.BestSpeed)
	if err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	unit := make([]byte, 0, 1<<20)
	for len(unit) < 1<<20 {
		unit = strconv.AppendUint(unit, rng.Uint64()>>(rng.Uint64()%48), 10)
		unit = append(unit, ' ')
	}
	w := tar.NewWriter(packed)
	if n == 0 {
		if err := s.writeProgram(w); err != nil {
			return err
		}
	}
	files, size := s.files/scaleLayers, int(s.bytes/int64(s.files))
	for i := range files {
		if err := w.WriteHeader(&tar.Header{Name: fileName(n, i), Mode: 0o644, Size: int64(size)}); err != nil {
			return err
		}
		off := rng.IntN(len(unit) - size)
		if _, err := io.Copy(w, bytes.NewReader(unit[off:off+size])); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := packed.Close(); err != nil {
		return err
	}
	return file.Close()
}

// TestConvertLarge converts an image of 4 GiB with 150,000 files: 200 MB of memory for its indexes, 500 MB in
// full mode, predictions included. It takes minutes, and is part of "make nightly".
func TestConvertLarge(t *testing.T) {
	testMemory(t, &scale{files: 150_000, bytes: 4 << 30, indexRSS: 200e6, fullRSS: 500e6, leastPredictedSize: 25 << 20})
}

// TestConvertMemory is TestConvertLarge with small files, for every change.
func TestConvertMemory(t *testing.T) {
	testMemory(t, &scale{files: 150_000, bytes: 150_000 * 600, indexRSS: 190e6, fullRSS: 200e6, leastPredictedSize: 2 << 20})
}

func testMemory(t *testing.T, s *scale) {
	t.Helper()
	brisk := program(t, "brisk")
	ref := push(t, fmt.Sprintf("scale-%d-%d", s.files, s.bytes), s.image)
	for mode, limit := range map[string]float64{"index": s.indexRSS, "full": s.fullRSS} {
		c, state := convertImage(t, brisk, ref, mode)
		usage, ok := state.SysUsage().(*syscall.Rusage)
		if !ok {
			t.Fatal("the resident set is not known")
		}
		rss := float64(usage.Maxrss) * 1024
		t.Logf("%s: %.1f GB, %.0f MB of memory, %.1f s of CPU, %.1f MB predicted", mode, float64(c.stream)/1e9, rss/1e6,
			(state.UserTime() + state.SystemTime()).Seconds(), float64(c.predicted)/1e6)
		if rss > limit {
			t.Errorf("%s takes %.0f MB of memory, want at most %.0f MB", mode, rss/1e6, limit/1e6)
		}
		if c.predicted < s.leastPredictedSize {
			t.Errorf("%s predicts %d bytes, want at least %d", mode, c.predicted, s.leastPredictedSize)
		}
	}
}
