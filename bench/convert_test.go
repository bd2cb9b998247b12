//go:build !race

// Figures under the race detector say nothing, and take ten times as long.

package bench

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/brisk-project/brisk/internal/localregistry"
	"github.com/brisk-project/brisk/internal/mkimage"
	"github.com/brisk-project/brisk/test/require"
)

const (
	// maxIndexShare is the most that an index may take of the image it belongs to.
	maxIndexShare = 0.025
	// maxHeadShare is the most of an index that a mount may need.
	maxHeadShare = 0.31
)

// images are the images to convert: large files and many, small files and very many.
func images(tb testing.TB) map[string]func(context.Context, string) (v1.Image, error) {
	tb.Helper()
	return map[string]func(context.Context, string) (v1.Image, error){
		"go-toolchain": func(ctx context.Context, scratch string) (v1.Image, error) {
			root, err := mkimage.GoRoot(ctx)
			if err != nil {
				return nil, err
			}
			return mkimage.GoToolchain(ctx, root, scratch, false)
		},
		"node-modules": func(ctx context.Context, scratch string) (v1.Image, error) {
			require.Tool(tb, "npm")
			return mkimage.NodeModules(ctx, scratch)
		},
		"python": func(ctx context.Context, scratch string) (v1.Image, error) {
			require.Tool(tb, "apt-get")
			return mkimage.PythonLibraries(ctx, scratch)
		},
	}
}

// program builds one of the programs.
func program(tb testing.TB, command string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), command)
	out, err := exec.CommandContext(tb.Context(), "go", "build", "-o", path, "github.com/brisk-project/brisk/cmd/"+command).CombinedOutput()
	if err != nil {
		tb.Fatalf("building %s: %v\n%s", command, err, out)
	}
	return path
}

// cacheEnv names a directory in which images are kept for the next run: making them
// takes minutes.
const cacheEnv = "BRISK_BENCH_CACHE"

// push makes an image and pushes it to a registry of its own.
func push(tb testing.TB, kind string, build func(context.Context, string) (v1.Image, error)) (ref string) {
	tb.Helper()
	root := tb.TempDir()
	if cache := os.Getenv(cacheEnv); cache != "" {
		root = filepath.Join(cache, kind)
	}
	server, err := localregistry.Start(tb.Context(), localregistry.Config{Root: root})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
	})
	ref = server.Addr() + "/bench:v1"
	parsed, err := name.ParseReference(ref)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := remote.Head(parsed, remote.WithContext(tb.Context())); err == nil {
		return ref
	}
	image, err := build(tb.Context(), tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(parsed, image, remote.WithContext(tb.Context())); err != nil {
		tb.Fatal(err)
	}
	return ref
}

// converted is what a conversion of an image amounts to, in bytes.
type converted struct{ stream, stored, full, indexes, heads, predicted int64 }

// convertImage runs brisk convert. The state of the ended process tells its CPU time.
func convertImage(tb testing.TB, brisk, ref, mode string, flags ...string) (converted, *os.ProcessState) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), brisk, append([]string{"convert", "--reindex", "--mode", mode, "--output=json", ref}, flags...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("brisk convert: %v", err)
	}
	var result struct {
		Layers    []struct{ StreamSize, BlobSize, FullSize, IndexSize, HeadSize int64 }
		Platforms []struct{ Predicted int64 }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		tb.Fatalf("reading what brisk convert printed: %v", err)
	}
	var c converted
	for _, l := range result.Layers {
		c.stream, c.stored, c.full = c.stream+l.StreamSize, c.stored+l.BlobSize, c.full+l.FullSize
		c.indexes, c.heads = c.indexes+l.IndexSize, c.heads+l.HeadSize
	}
	for _, p := range result.Platforms {
		c.predicted += p.Predicted
	}
	if c.stream == 0 || c.indexes == 0 {
		tb.Fatalf("brisk convert tells of no layers: %s", out)
	}
	return c, cmd.ProcessState
}

func TestIndexShare(t *testing.T) {
	brisk := program(t, "brisk")
	for kind, build := range images(t) {
		t.Run(kind, func(t *testing.T) {
			c, _ := convertImage(t, brisk, push(t, kind, build), "index")
			share := float64(c.indexes) / float64(c.stored)
			heads := float64(c.heads) / float64(c.indexes)
			t.Logf("%.1f MB, %.1f MB compressed, indexes %.2f MB: %.2f %%, of these heads %.0f %%",
				float64(c.stream)/1e6, float64(c.stored)/1e6, float64(c.indexes)/1e6, 100*share, 100*heads)
			if c.heads == 0 || heads > maxHeadShare {
				t.Errorf("a mount needs %.0f %% of the indexes, want at most %.0f %%", 100*heads, 100*maxHeadShare)
			}
			if share > maxIndexShare {
				t.Errorf("the indexes take %.2f %% of the image, want at most %.1f %%", 100*share, 100*maxIndexShare)
			}
		})
	}
}

// maxFullShare is the most that an image in full mode may take of the gzip image, its indexes included.
const maxFullShare = 1.0

func TestFullShare(t *testing.T) {
	brisk := program(t, "brisk")
	for kind, build := range images(t) {
		t.Run(kind, func(t *testing.T) {
			c, state := convertImage(t, brisk, push(t, kind, build), "full")
			share := float64(c.full+c.indexes) / float64(c.stored)
			t.Logf("%.1f MB, %.1f MB with gzip, %.1f MB in full mode, indexes %.2f MB: %.1f %%; %.1f s of CPU",
				float64(c.stream)/1e6, float64(c.stored)/1e6, float64(c.full)/1e6, float64(c.indexes)/1e6, 100*share,
				(state.UserTime() + state.SystemTime()).Seconds())
			if c.full == 0 || share > maxFullShare {
				t.Errorf("full mode takes %.1f %% of the image, want at most %.0f %%", 100*share, 100*maxFullShare)
			}
		})
	}
}

// BenchmarkConvert reports seconds and CPU seconds of brisk convert for one GB (10^9
// bytes) of layer streams, its start and the exchange with the registry included, its largest resident
// set, and what it makes as a share of the gzip image.
// The CPU time of the registry is not in it, but its share of the machine is.
func BenchmarkConvert(b *testing.B) {
	brisk := program(b, "brisk")
	for kind, build := range images(b) {
		for _, mode := range []string{"index", "full"} {
			b.Run(kind+"/"+mode, func(b *testing.B) {
				ref := push(b, kind, build)
				var total converted
				var cpu float64
				var rss int64
				for b.Loop() {
					c, state := convertImage(b, brisk, ref, mode)
					total.stream += c.stream
					total.stored += c.stored
					total.full += c.full
					total.indexes += c.indexes
					cpu += (state.UserTime() + state.SystemTime()).Seconds()
					if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
						rss = max(rss, usage.Maxrss)
					}
				}
				gigabytes := float64(total.stream) / 1e9
				b.ReportMetric(b.Elapsed().Seconds()/gigabytes, "s/GB")
				b.ReportMetric(cpu/gigabytes, "cpu-s/GB")
				b.ReportMetric(float64(rss)/1e3, "MB-RSS")
				b.ReportMetric(100*float64(total.indexes)/float64(total.stored), "%index")
				if total.full > 0 {
					b.ReportMetric(100*float64(total.full+total.indexes)/float64(total.stored), "%gzip")
				}
			})
		}
	}
}
