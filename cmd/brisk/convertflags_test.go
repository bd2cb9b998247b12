package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestConvertLimitRate converts an image at a limited rate: what is read of its layers, and in full mode
// what is pushed of them too, takes its time. The output is that of any conversion.
func TestConvertLimitRate(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	for i, mode := range []string{"index", "full"} {
		image := pushImage(t, reg, []string{"first:v1", "second:v1"}[i])
		reg.ResetRequests()
		began := time.Now()
		out := run(t, "convert", "--mode", mode, "--predict=false", "--limit-rate", "1Mi", "-o", "json", image)
		took := time.Since(began)
		var result convert.Result
		if err := json.Unmarshal([]byte(out), &result); err != nil {
			t.Fatal(err)
		}
		var moved int64
		for _, l := range result.Layers {
			moved += l.BlobSize + l.FullSize
		}
		if least := time.Duration(float64(moved) / (1 << 20) * float64(time.Second)); took < least || moved < 1<<20 {
			t.Errorf("%s: %d bytes at 1 MiB/s took %s, want at least %s", mode, moved, took, least)
		}
	}
	got := finish(t, program(t, "convert", "--limit-rate", "1k", reg.Addr()+"/first:v1"))
	if got.code != 1 {
		t.Errorf("a limit that is too low: exit code %d", got.code)
	}
	requireOutput(t, got.stderr, "--limit-rate", "1000 bytes")
}

// TestConvertConcurrency counts how many layers are read at a time.
func TestConvertConcurrency(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	var content []registrytest.Layer
	layers := map[string]bool{}
	for i := range 6 {
		l := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(uint64(i), 1, 100_000)...), Compression: registrytest.None}
		content = append(content, l)
		layers[block.Sum(l.Tar).String()] = true
	}
	var now, most atomic.Int64
	reg.Inject(registrytest.Rule{
		Match: func(r *http.Request) bool {
			return r.Method == http.MethodGet && layers[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]
		},
		Fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); {
				old = most.Load()
			}
			select { // long enough for others to come too
			case <-time.After(200 * time.Millisecond):
			case <-r.Context().Done():
			}
			next.ServeHTTP(w, r)
			now.Add(-1)
		},
	})
	for _, tt := range []struct {
		flag  string
		limit int64
	}{{"--concurrency=1", 1}, {"--concurrency=3", 3}, {"--parallel=2", 2}} {
		reg.Push(t, "app:v1", registrytest.Image{Layers: content})
		most.Store(0)
		run(t, "convert", "--reindex", "--predict=false", tt.flag, reg.Addr()+"/app:v1")
		if got := most.Load(); got != tt.limit {
			t.Errorf("%s: %d layers were read at a time", tt.flag, got)
		}
	}
}

// A layer that cannot be read in parts is named as such, in index mode only.
func TestConvertNamesStreamedLayers(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	long := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(1, 1, 9<<20)...), Compression: registrytest.Zstd}
	reg.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{long}})
	image := reg.Addr() + "/app:v1"
	const note = "can only be streamed, unless converted with --mode full"
	requireOutput(t, run(t, "convert", image), note)
	if out := run(t, "convert", "--mode", "full", image); strings.Contains(out, note) {
		t.Errorf("in full mode: %s", out)
	}
}
