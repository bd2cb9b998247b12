package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// readable is an image with a gzip layer whose index is mostly windows.
var readable = sync.OnceValue(func() content {
	c := content{files: map[string][]byte{"prose": registrytest.RandomText(3, 24<<20)}}
	l := registrytest.Layer{Level: 6, Tar: registrytest.Tar(&never{}, registrytest.File{Name: "prose", Data: c.files["prose"]})}
	l.Blob = registrytest.Compress(&never{}, l)
	c.layers = append(c.layers, l)
	return c
})

// indexBytes returns what a registry has sent of the indexes of an image.
func indexBytes(reg *registrytest.Registry, image *node.Image) (sent int64) {
	for _, r := range reg.BlobRequests() {
		for _, layer := range image.Layers {
			if strings.HasSuffix(r.Path, layer.Index.Hex()) {
				sent += r.Bytes
			}
		}
	}
	return sent
}

// Before a mount no more than the heads of the indexes come from the registry, a third of them; a
// second node gets these from the first. What is kept of an index goes with its image.
func TestMountFetchesTheHeadOfAnIndex(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	ref := push(t, reg, "app:v1", readable().layers)
	reg.ResetRequests()
	first, second := newMember(t, 1), newMember(t, 2)
	metrics := prometheus.NewRegistry()
	cfg := node.Config{Dir: first.dir, Listen: []string{first.listen}, Metrics: metrics}
	cfg.Peers = append(cfg.Peers, second.peer)
	n, _ := start(t, cfg)
	image, err := n.Find(t.Context(), ref, block.Digest{}, v1.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Fetch(t.Context(), image, nil); err != nil {
		t.Fatal(err)
	}
	layer := image.Layers[0]
	if sent := indexBytes(reg, image); sent != layer.Head.Size || 3*sent > layer.IndexSize {
		t.Errorf("%d bytes of an index of %d were fetched, its head has %d", sent, layer.IndexSize, layer.Head.Size)
	}
	m := mount(t, n, ref)
	if sent := indexBytes(reg, image); sent != layer.Head.Size {
		t.Errorf("%d bytes of an index were fetched before anything was read, its head has %d", sent, layer.Head.Size)
	}
	requireFiles(t, m.Target(), readable().files)

	theirs := prometheus.NewRegistry()
	other := node.Config{Dir: second.dir, Listen: []string{second.listen}, Metrics: theirs}
	other.Peers = append(other.Peers, first.peer)
	n2, _ := start(t, other)
	awaitPeers(t, theirs, 1)
	awaitPeers(t, metrics, 1)
	reg.ResetRequests()
	requireFiles(t, mount(t, n2, ref).Target(), readable().files)
	for _, r := range reg.BlobRequests() { // windows may come from it, where a peer was slow
		if strings.HasSuffix(r.Path, layer.Index.Hex()) && (r.Range == "" || strings.HasPrefix(r.Range, "bytes=0-")) {
			t.Errorf("the second node asked the registry for the head of an index: %+v", r)
		}
	}

	if err := n.Retain(t.Context(), []*node.Image{image}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Object(layer.Head.Digest, layer.Head.Size); err != nil {
		t.Errorf("the head of an image that stays: %v", err)
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Retain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(first.dir, "objects")); err != nil || len(left) > 0 {
		t.Errorf("%d objects are left of no image: %v", len(left), err)
	}
}
