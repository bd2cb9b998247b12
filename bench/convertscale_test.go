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
	// scaleFiles and scaleBytes are what the image of TestConvertScale has, in scaleLayers layers.
	scaleFiles  = 100_000
	scaleBytes  = 4 << 30
	scaleLayers = 4
	// maxIndexRSS and maxFullRSS are what a conversion of it may take of memory, in bytes.
	maxIndexRSS = 200e6
	maxFullRSS  = 500e6
)

// scaleImage makes an image of many files of words and noise, which gzip halves.
func scaleImage(_ context.Context, scratch string) (v1.Image, error) {
	image := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	for n := range scaleLayers {
		path := filepath.Join(scratch, "layer"+strconv.Itoa(n)+".tar.gz")
		if err := writeScaleLayer(path, n); err != nil {
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
	return image, nil
}

func writeScaleLayer(path string, n int) error {
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
	const files, size = scaleFiles / scaleLayers, scaleBytes / scaleFiles
	for i := range files {
		header := &tar.Header{Name: fmt.Sprintf("layer%d/dir%d/file%d", n, i/100, i), Mode: 0o644, Size: size}
		if err := w.WriteHeader(header); err != nil {
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

// TestConvertScale converts an image of 4 GiB with 100,000 files: 200 MB of memory for its indexes, 500 MB in
// full mode.
func TestConvertScale(t *testing.T) {
	brisk := program(t, "brisk")
	ref := push(t, "scale", scaleImage)
	for mode, limit := range map[string]float64{"index": maxIndexRSS, "full": maxFullRSS} {
		c, state := convertImage(t, brisk, ref, mode)
		usage, ok := state.SysUsage().(*syscall.Rusage)
		if !ok {
			t.Fatal("the resident set is not known")
		}
		rss := float64(usage.Maxrss) * 1024
		t.Logf("%s: %.1f GB, %.0f MB of memory, %.1f s of CPU", mode, float64(c.stream)/1e9, rss/1e6,
			(state.UserTime() + state.SystemTime()).Seconds())
		if rss > limit {
			t.Errorf("%s takes %.0f MB of memory, want at most %.0f MB", mode, rss/1e6, limit/1e6)
		}
	}
}
