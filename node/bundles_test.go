package node_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/image/startup/bundle"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// tars are the layer streams of an image.
type tars []registrytest.Layer

// ReadStream implements bundle.Reader.
func (l tars) ReadStream(_ context.Context, layer block.Digest, p []byte, off int64) error {
	for _, one := range l {
		if streamID(one.Tar) == layer {
			copy(p, one.Tar[off:])
		}
	}
	return nil
}

// around is a trace of the pages that touched reads and their neighbours: files do not begin at
// pages of the layer.
func around() startup.Trace {
	var all startup.Recorder
	for _, s := range touched() {
		all.Add(startup.Span{Layer: s.Layer, Offset: s.Offset - 2*startup.PageSize, Length: 5 * startup.PageSize})
	}
	return all.Trace()
}

// falseTars are the layer streams of an image, but for one byte that the start reads first.
type falseTars struct{ tars }

// ReadStream implements bundle.Reader.
func (l falseTars) ReadStream(ctx context.Context, layer block.Digest, p []byte, off int64) error {
	at := touched()[0].Offset + 100 - off
	if err := l.tars.ReadStream(ctx, layer, p, off); err != nil || layer != touched()[0].Layer || at < 0 || at >= int64(len(p)) {
		return err
	}
	p[at] ^= 1
	return nil
}

// pushBundle pushes a trace and its bundle, changed in transit by edit.
func pushBundle(t *testing.T, reference string, edit func(blob []byte)) *bundle.Bundle {
	t.Helper()
	return pushBundleOf(t, reference, tars(large().layers), edit)
}

// pushBundleOf is pushBundle for a bundle that has its bytes from stream.
func pushBundleOf(t *testing.T, reference string, stream bundle.Reader, edit func(blob []byte)) *bundle.Bundle {
	t.Helper()
	layers := tars(large().layers)
	cfg := bundle.BuildConfig{FrameSize: bundle.MinFrameSize, Stream: stream}
	for _, l := range layers {
		cfg.Layers = append(cfg.Layers, bundle.Layer{ID: streamID(l.Tar), Size: int64(len(l.Tar))})
	}
	built, err := bundle.Build(t.Context(), around(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	annotations := built.Annotations()
	edit(built.Blob)
	c, image := resolve(t, reference)
	if err := c.PushBlob(t.Context(), image.Name.Context(), built.Blob, registry.BundleMediaType); err != nil {
		t.Fatal(err)
	}
	if _, err := artifact.Push(t.Context(), c, image, nil, artifact.Config{
		Files: []startup.File{{Trace: around()}}, Now: time.Now(),
		Bundle: &registry.BundleBlob{Digest: block.Sum(built.Blob), Size: int64(len(built.Blob)), Annotations: annotations},
	}); err != nil {
		t.Fatal(err)
	}
	return built
}

// noLayers makes a registry refuse to give anything of the layers of large.
func noLayers(reg *registrytest.Registry) {
	reg.Inject(registrytest.Rule{Fault: registrytest.Status(http.StatusInternalServerError), Match: func(r *http.Request) bool {
		for _, l := range large().layers {
			if strings.HasSuffix(r.URL.Path, block.Sum(l.Blob).String()) {
				return r.Method == http.MethodGet
			}
		}
		return false
	}})
}

func bundleFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "bundles", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestStartFromABundle starts an image from its bundle alone: the registry gives nothing of the
// layers. So does the next process. When the image is removed, the bundle is, too.
func TestStartFromABundle(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	built := pushBundle(t, image, func([]byte) {})
	dir, metrics := filepath.Join(t.TempDir(), "node"), prometheus.NewRegistry()
	n, stop := start(t, node.Config{Dir: dir, Metrics: metrics})
	found := fetched(t, n, image, traceOnly)
	if found.Bundle == nil {
		t.Fatal("the bundle was not found")
	}
	table := filepath.Join(dir, "bundles", built.TableDigest().Hex())
	p2ptest.Await(t, "the bundle", func() bool {
		content, err := os.ReadFile(table)
		return err == nil && int64(len(content)) == built.Table.Bytes() && block.Sum(content[:bundle.MinFrameSize]) == built.Table.Frames[0].Digest
	})
	noLayers(reg)
	// A node with a bundle does not look cold.
	want := &node.BundleStatus{Bytes: built.Table.Bytes(), HeldBytes: built.Table.Bytes()}
	requireWarm := func(source node.TraceSource) {
		t.Helper()
		status := n.ImageStatus(found)
		if missing, known := status.StartMissing(); missing != 0 || !known || status.Start.Source != source {
			t.Errorf("with a bundle the start-up set is %+v", status.Start)
		}
		if diff := cmp.Diff(want, status.Bundle); diff != "" {
			t.Errorf("bundle:\n%s", diff)
		}
	}
	p2ptest.Await(t, "the last frame", func() bool { return n.ImageStatus(found).Bundle.HeldBytes == want.Bytes })
	requireWarm(node.TraceRegistry)
	if got := n.Status().Bytes.Bundles; got != int64(len(built.Blob)) {
		t.Errorf("%d bytes of bundles were counted, the blob has %d", got, len(built.Blob))
	}
	runStart(t, n, dir, image)
	if status := n.ImageStatus(found); status.CachedBytes != 0 || status.Traffic.Bundle < touched().Bytes() {
		t.Errorf("%d bytes of blocks were loaded for what the bundle has, %d bytes were read from it", status.CachedBytes, status.Traffic.Bundle)
	}
	wantMetrics := "# HELP brisk_bundle_loads_total Bundles that were loaded from registries, by result: loaded, failed, or stopped because the image was removed.\n" +
		"# TYPE brisk_bundle_loads_total counter\nbrisk_bundle_loads_total{result=\"loaded\"} 1\n"
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(wantMetrics), "brisk_bundle_loads_total"); err != nil {
		t.Error(err)
	}
	stop()
	n, _ = start(t, node.Config{Dir: dir})
	<-n.Ready()
	requireWarm(node.TraceRecorded)
	runStart(t, n, dir, image)
	if err := n.Retain(t.Context(), []*node.Image{found}); err != nil || len(bundleFiles(t, dir)) != 1 {
		t.Errorf("the bundle of an image that is kept: %v, %v", bundleFiles(t, dir), err)
	}
	if err := n.Retain(t.Context(), nil); err != nil || len(bundleFiles(t, dir)) != 0 {
		t.Errorf("the bundle of an image that was removed: %v, %v", bundleFiles(t, dir), err)
	}
}

// TestBadBundleCostsNothingButTime starts an image with bundles that are wrong in some way.
func TestBadBundleCostsNothingButTime(t *testing.T) {
	require.FUSE(t)
	for name, edit := range map[string]func(blob []byte){
		"table":      func(blob []byte) { blob[20]++ },
		"last frame": func(blob []byte) { blob[len(blob)-7] ^= 0x55 },
		"endless":    func(blob []byte) { clear(blob[len(blob)/2:]) },
	} {
		t.Run(name, func(t *testing.T) {
			reg := registrytest.New(t, registrytest.Config{})
			image := push(t, reg, "app:v1", large().layers)
			pushBundle(t, image, edit)
			dir := filepath.Join(t.TempDir(), "node")
			n, _ := start(t, node.Config{Dir: dir})
			found := fetched(t, n, image, traceOnly)
			runStart(t, n, dir, image)
			p2ptest.Await(t, "blocks in place of the bundle", func() bool { return n.ImageStatus(found).CachedBytes > 0 })
		})
	}
}

// TestBundleThatLiesIsDropped starts an image whose bundle has another byte than its layer, which its
// digest does not show. A verified block of the layer does: from then on programs read the right
// bytes, also in processes to come.
func TestBundleThatLiesIsDropped(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		reg := registrytest.New(t, registrytest.Config{})
		image := push(t, reg, "app:v1", large().layers)
		built := pushBundleOf(t, image, falseTars{large().layers}, func([]byte) {})
		dir, metrics := filepath.Join(emptyTemp(t), "node"), prometheus.NewRegistry()
		n, stop := start(t, node.Config{Dir: dir, Backend: backend, Metrics: metrics})
		found := fetched(t, n, image, func(*node.Image) bool { return false })
		p2ptest.Await(t, "the bundle", func() bool { return n.ImageStatus(found).Bundle.HeldBytes == built.Table.Bytes() })
		m := mount(t, n, image)
		path, off := filepath.Join(m.Target(), largeGzip), touched()[0].Offset-largeStart
		right := large().files[largeGzip][off : off+4096]
		if got, err := readPart(path, off, 4096); err != nil || bytes.Equal(got, right) {
			t.Fatalf("the bundle does not lie: error %v", err)
		}
		beside := off - off%block.Size + 64<<10 // in the same block
		if got, err := readPart(path, beside, 4096); err != nil || !bytes.Equal(got, large().files[largeGzip][beside:beside+4096]) {
			t.Fatalf("beside the lie: error %v, or wrong bytes", err)
		}
		p2ptest.Await(t, "the right bytes", func() bool {
			got, err := readPart(path, off, 4096)
			return err == nil && bytes.Equal(got, right)
		})
		if got := n.ImageStatus(found).Bundle; !got.Rejected || got.HeldBytes != 0 {
			t.Errorf("the bundle is %+v", got)
		}
		want := "# HELP brisk_bundle_rejected_total Bundles that were dropped because they had other bytes than the layers of their images.\n" +
			"# TYPE brisk_bundle_rejected_total counter\nbrisk_bundle_rejected_total 1\n"
		if err := testutil.GatherAndCompare(metrics, strings.NewReader(want), "brisk_bundle_rejected_total"); err != nil {
			t.Error(err)
		}
		if err := m.Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
		n, stop = start(t, node.Config{Dir: dir, Backend: backend})
		found = fetched(t, n, image, func(*node.Image) bool { return false })
		runStart(t, n, dir, image)
		if got := n.ImageStatus(found).Bundle; !got.Rejected || got.HeldBytes != 0 {
			t.Errorf("in the next process the bundle is %+v", got)
		}
		if got := n.Status().Bytes.Bundles; got != 0 {
			t.Errorf("%d bytes of it were loaded again", got)
		}
		stop()
	})
}
