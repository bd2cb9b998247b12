package convert_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// interruption is a conversion that ends before its last layer.
type interruption struct {
	mode       convert.Mode
	checkpoint time.Duration
	cancelled  bool // or else the registry fails
}

// checkInterrupted interrupts a conversion at its last layer, and requires that the next one reads that layer
// only, and has the result of one that nothing has interrupted.
func checkInterrupted(t *testing.T, cfg registrytest.Config, how interruption) {
	t.Helper()
	var content []registrytest.Layer
	for i := range 4 { // the largest is read first
		tar := registrytest.Tar(t, registrytest.Files(uint64(i), 4-i, 200_000)...)
		content = append(content, registrytest.Layer{Tar: tar, Compression: registrytest.None, Blob: tar})
	}
	last := block.Sum(content[3].Blob).String()
	r, other := registrytest.New(t, cfg), registrytest.New(t, cfg)
	for _, reg := range []*registrytest.Registry{r, other} {
		reg.PushIndex(t, "app:v1", registrytest.Image{Layers: content[:2]}, registrytest.Image{Layers: content, Platform: arm()})
	}
	want := mustConvert(t, newClient(t), other.Ref(t, "app:v1"), convert.Config{Mode: how.mode})

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.Inject(registrytest.Rule{Match: registrytest.Blob(last), Fault: func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if how.cancelled {
			cancel()
			registrytest.Hang(-1)(w, req, next)
		}
		registrytest.Status(http.StatusNotFound)(w, req, next)
	}})
	c := newClient(t)
	ref := r.Ref(t, "app:v1")
	if _, err := convert.Convert(ctx, c, ref, convert.Config{Mode: how.mode, Parallel: 1, Checkpoint: how.checkpoint}); err == nil {
		t.Fatal("the conversion was not interrupted")
	}
	r.ClearFaults()
	if _, err := c.Resolve(t.Context(), r.Ref(t, "app:v1_accelerated"), linux()); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("there is a tag: %v", err)
	}
	image, err := c.Resolve(t.Context(), ref, linux())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.FindArtifact(t.Context(), image); !errors.Is(err, registry.ErrNoArtifact) {
		t.Errorf("a checkpoint is taken for an index: %v", err)
	}
	r.ResetRequests()
	got := mustConvert(t, c, ref, convert.Config{Mode: how.mode, Checkpoint: -1})
	if diff := cmp.Diff(map[string]int{last: 1}, layerReads(r, content)); diff != "" {
		t.Errorf("reads of the next conversion: %s", diff)
	}
	if got.TagDigest != want.TagDigest {
		t.Errorf("the next conversion made %+v, want %+v", got, want)
	}
}

// What was finished when a conversion ended is not made again: neither after a crash, which leaves the
// checkpoints that were made in time, nor after a cancellation, which makes one.
func TestInterrupted(t *testing.T) {
	for kind, cfg := range registries() {
		if cfg.Redirect {
			continue // there every read counts twice
		}
		for _, mode := range []convert.Mode{convert.ModeIndex, convert.ModeFull} {
			t.Run(kind+"/"+string(mode)+"/failed", func(t *testing.T) {
				checkInterrupted(t, cfg, interruption{mode: mode, checkpoint: time.Nanosecond})
			})
			t.Run(kind+"/"+string(mode)+"/cancelled", func(t *testing.T) {
				checkInterrupted(t, cfg, interruption{mode: mode, checkpoint: time.Hour, cancelled: true})
			})
		}
	}
}

// A registry that takes no checkpoint is asked once, and the conversion goes on.
func TestCheckpointRefused(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	content := stored(t, layers(t))
	r.Push(t, "app:v1", registrytest.Image{Layers: content})
	pushed := func(req *http.Request) bool {
		return req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/manifests/sha256:")
	}
	r.Inject(registrytest.Rule{Times: 1, Fault: registrytest.Status(http.StatusBadRequest), Match: pushed})
	r.ResetRequests()
	mustConvert(t, newClient(t), r.Ref(t, "app:v1"), convert.Config{Parallel: 1, Checkpoint: time.Nanosecond})
	count := 0
	for _, req := range r.Requests() {
		if req.Method == http.MethodPut && strings.Contains(req.Path, "/manifests/sha256:") {
			count++
		}
	}
	if count != 2 { // the checkpoint, and the artifact
		t.Errorf("%d manifests were pushed by digest", count)
	}
}

// Checkpoints come from a registry: what is wrong with one is an error, never an index.
func TestCheckpointMustBeValid(t *testing.T) {
	sum := block.Sum([]byte("x"))
	image := &registry.Image{}
	good := &registry.Checkpoint{
		Indexes: []registry.IndexBlob{{Layer: sum, DiffID: sum, Digest: sum, Size: 10}},
		Layers:  []registry.Layer{{Digest: sum, DiffID: sum, Size: 10, MediaType: "application/vnd.oci.image.layer.v1.tar+zstd"}},
	}
	image.Descriptor.Digest.Algorithm, image.Descriptor.Digest.Hex = "sha256", sum.Hex()
	encoded, err := registry.EncodeCheckpoint(image.Descriptor, good)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := registry.ParseCheckpoint(encoded)
	if err != nil {
		t.Fatal(err)
	}
	good.Digest = block.Sum(encoded)
	if diff := cmp.Diff(good, parsed); diff != "" {
		t.Error(diff)
	}
	for _, change := range [][2]string{
		{`"size":10`, `"size":-1`}, {registry.AnnotationDiffID, "other"}, {registry.CheckpointType, registry.ArtifactType}, {"{", "["},
	} {
		if _, err := registry.ParseCheckpoint([]byte(strings.ReplaceAll(string(encoded), change[0], change[1]))); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%s in place of %s: %v", change[1], change[0], err)
		}
	}
}
