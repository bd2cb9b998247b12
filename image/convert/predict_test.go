package convert_test

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/test/registrytest"
)

// pushScripted pushes an image whose entry point is a script that a program interprets. Its layer is
// too long to be decoded for a single block.
func pushScripted(t *testing.T, r *registrytest.Registry, compression registrytest.Compression) []registrytest.Layer {
	t.Helper()
	random := make([]byte, 12<<20)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(random); err != nil {
		t.Fatal(err)
	}
	layers := stored(t, []registrytest.Layer{{Compression: compression, Level: 1, Tar: registrytest.Tar(t,
		registrytest.File{Name: "usr/bin/app", Data: random[:400_000], Mode: 0o755}, registrytest.File{Name: "data", Data: random},
		registrytest.File{Name: "entry.sh", Data: []byte("#!/usr/bin/app\n"), Mode: 0o755})}})
	r.Push(t, "app:v1", registrytest.Image{Layers: layers, Config: func(c *v1.Config) { c.Entrypoint, c.Cmd = []string{"/entry.sh"}, []string{"-x"} }})
	return layers
}

// predicted converts an image and returns what was predicted of it, and what was logged.
func predicted(t *testing.T, r *registrytest.Registry, cfg convert.Config) (*convert.Result, []startup.File, string) {
	t.Helper()
	var log bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c, ref := newClient(t), r.Ref(t, "app:v1")
	result := mustConvert(t, c, ref, cfg)
	image, err := c.Resolve(t.Context(), ref, linux())
	if err != nil {
		t.Fatal(err)
	}
	found, err := c.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	chosen := artifact.SelectTraces(found)
	if len(chosen) == 0 {
		return result, nil, log.String()
	}
	read, err := artifact.Fetch(t.Context(), c, ref.Context(), chosen)
	if err != nil {
		t.Fatal(err)
	}
	return result, read, log.String()
}

// TestPrediction predicts a start by default, keeps the prediction, and leaves the index alone.
func TestPrediction(t *testing.T) {
	for name, cfg := range registries() {
		r := registrytest.New(t, cfg)
		pushScripted(t, r, registrytest.Gzip)
		if _, got, _ := predicted(t, r, convert.Config{NoPrediction: true}); got != nil {
			t.Errorf("%s: predicted all the same: %v", name, got)
		}
		first, got, _ := predicted(t, r, convert.Config{})
		if len(got) != 1 || !got[0].Predicted || got[0].Trace.Bytes() < 300_000 || first.Platforms[0].PredictedBytes != got[0].Trace.Bytes() {
			t.Fatalf("%s: predicted %v, %+v", name, got, first.Platforms)
		}
		for _, again := range []convert.Config{{}, {NoPrediction: true}} {
			r.ResetRequests()
			result, _, _ := predicted(t, r, again)
			if result.Platforms[0].Artifact != first.Platforms[0].Artifact || result.Platforms[0].Pushed || result.Platforms[0].PredictedBytes != 0 {
				t.Errorf("%s: with %+v once more: %+v", name, again, result.Platforms)
			}
			for _, request := range r.BlobRequests() {
				if request.Range != "" {
					t.Errorf("%s: a layer was read again: %+v", name, request)
				}
			}
		}
		// Made anew it is the same.
		result, _, _ := predicted(t, r, convert.Config{Reindex: true})
		if result.Platforms[0].Artifact != first.Platforms[0].Artifact {
			t.Errorf("%s: read again: %+v, before: %+v", name, result.Platforms, first.Platforms)
		}
	}
}

// TestPredictionFails converts images of which nothing can be predicted. A layer that cannot be read in
// parts is not read once more.
func TestPredictionFails(t *testing.T) {
	for name, test := range map[string]struct {
		compression registrytest.Compression
		fault       registrytest.Fault
	}{
		"one zstd frame": {registrytest.Zstd, nil},
		"no ranges":      {registrytest.Gzip, registrytest.OnRanges(registrytest.IgnoreRange())},
		"errors":         {registrytest.Gzip, registrytest.OnRanges(registrytest.Status(403))},
	} {
		r := registrytest.New(t, registrytest.Config{})
		layers := pushScripted(t, r, test.compression)
		if test.fault != nil {
			r.Inject(registrytest.Rule{Fault: test.fault})
		}
		result, got, log := predicted(t, r, convert.Config{})
		if len(got) != 0 || result.Platforms[0].Artifact.IsZero() || !strings.Contains(log, "not predicted") {
			t.Errorf("%s: predicted %v, %+v\n%s", name, got, result.Platforms, log)
		}
		for digest, reads := range layerReads(r, layers) {
			if reads > 3 {
				t.Errorf("%s: layer %s was read %d times", name, digest, reads)
			}
		}
	}
}

// TestRecordedTraceOutweighsThePrediction pushes a recorded trace: it is used, and the index stays.
func TestRecordedTraceOutweighsThePrediction(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	pushScripted(t, r, registrytest.Gzip)
	first, got, _ := predicted(t, r, convert.Config{})
	c, ref := newClient(t), r.Ref(t, "app:v1")
	image, err := c.Resolve(t.Context(), ref, linux())
	if err != nil {
		t.Fatal(err)
	}
	recorded := startup.File{Trace: got[0].Trace[:1], Command: "app"}
	if _, err := artifact.Push(t.Context(), c, image, nil, artifact.Config{Files: []startup.File{recorded}}); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []convert.Config{{}, {Reindex: true}} {
		result, got, _ := predicted(t, r, cfg)
		if len(got) != 1 || got[0].Predicted || got[0].Command != "app" || result.Platforms[0].Artifact != first.Platforms[0].Artifact {
			t.Errorf("found %v, %+v", got, result.Platforms)
		}
	}
}
