package node_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/image/startup/bundle"
	"github.com/brisk-project/brisk/internal/block"
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

// pushBundle pushes a trace and its bundle, changed in transit by edit.
func pushBundle(t *testing.T, reference string, edit func(blob []byte)) *bundle.Bundle {
	t.Helper()
	layers := tars(large().layers)
	cfg := bundle.BuildConfig{FrameSize: bundle.MinFrameSize, Stream: layers}
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
	dir := filepath.Join(t.TempDir(), "node")
	n, stop := start(t, node.Config{Dir: dir})
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
	runStart(t, n, dir, image)
	if status := n.ImageStatus(found); status.CachedBytes != 0 {
		t.Errorf("%d bytes of blocks were loaded for what the bundle has", status.CachedBytes)
	}
	stop()
	n, _ = start(t, node.Config{Dir: dir})
	<-n.Ready()
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
