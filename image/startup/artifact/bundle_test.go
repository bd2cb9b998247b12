package artifact_test

import (
	"bytes"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/image/startup/bundle"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestPushBundle reads a bundle that was pushed: it has the bytes of the trace, each once, and
// nothing of other images.
func TestPushBundle(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	tars := [][]byte{registrytest.Tar(t, registrytest.Files(1, 6, 1<<20)...), registrytest.Tar(t, registrytest.Files(2, 3, 700_001)...)}
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: tars[0]}, {Tar: tars[1], Compression: registrytest.None}}})
	ref := r.Ref(t, "app:v1")
	if _, err := convert.Convert(t.Context(), c, ref, convert.Config{}); err != nil {
		t.Fatal(err)
	}
	image, err := c.Resolve(t.Context(), ref, v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	found, err := c.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := c.LayerIndexes(t.Context(), image, found)
	if err != nil {
		t.Fatal(err)
	}
	var trace startup.Recorder
	for i := range int64(40) {
		layer := layers[i%2]
		trace.Add(startup.Span{Layer: layer.StreamID(), Offset: i * 7919 * 13 % layer.StreamSize(), Length: 1 + i*3000})
	}
	trace.Add(startup.Span{Layer: layers[1].StreamID(), Offset: layers[1].StreamSize() - 5, Length: 1 << 20})
	trace.Add(startup.Span{Layer: block.Sum([]byte("another image")), Length: 1 << 20})
	pushed, err := artifact.PushBundle(t.Context(), c, image, layers, trace.Trace(), artifact.BundleConfig{FrameSize: bundle.MinFrameSize})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := c.ReadBlob(t.Context(), ref.Context(), pushed.Digest, pushed.Size, registry.MaxBundleBlob)
	if err != nil {
		t.Fatal(err)
	}
	digest, size, err := bundle.ParseAnnotations(pushed.Annotations)
	if err != nil {
		t.Fatal(err)
	}
	reader := bytes.NewReader(blob)
	table, _, err := bundle.ReadTable(reader, size, digest)
	if err != nil {
		t.Fatal(err)
	}
	decoder, err := bundle.NewDecoder(1)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	var got, want []byte
	err = table.ReadFrames(reader, 0, func(i int, stored []byte) error {
		raw, err := decoder.Decode(table, i, stored, nil)
		got = append(got, raw...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range table.Spans {
		i := 0
		if s.Layer == layers[1].StreamID() {
			i = 1
		}
		want = append(want, tars[i][s.Offset:s.End()]...)
	}
	clipped := trace.Trace().Clip(map[block.Digest]int64{layers[0].StreamID(): int64(len(tars[0])), layers[1].StreamID(): int64(len(tars[1]))})
	if !bytes.Equal(got, want) || int64(len(got)) != clipped.Bytes() || len(got) == 0 {
		t.Errorf("%d bytes, %d of the layers, %d of the trace", len(got), len(want), clipped.Bytes())
	}
}
