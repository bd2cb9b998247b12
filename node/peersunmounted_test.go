package node_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// Peers get blocks of layers that no mount uses, if they are right, and none that cannot be
// checked.
func TestUnmountedLayersAreLent(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	dir := filepath.Join(t.TempDir(), "node")
	filled, stop := fillCache(t, node.Config{Dir: dir}, image)
	found, err := filled.Find(t.Context(), image, block.Digest{}, v1.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	if err := filled.Fetch(t.Context(), found, nil); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := reg.Pause(); err != nil {
		t.Fatal(err)
	}
	const rotten = 3
	id := streamID(mixed().layers[0].Tar)
	flip(t, filepath.Join(dir, "cache", "layers", id.Hex(), "data"), rotten*block.Size+100)

	lend := func(n *node.Node) (right, missing int) {
		lent := node.Lent(n)
		for id, stream := range mixed().streams() {
			for i := range block.Count(int64(len(stream))) {
				req := block.Request{Range: block.Range{Layer: id, First: i, Count: 1}}
				err := lent.Fetch(t.Context(), req, func(k block.Key, data []byte) error {
					if !bytes.Equal(data, blockOf(stream, k.Index)) {
						t.Errorf("block %s is sent with wrong bytes", k)
					}
					right++
					return nil
				})
				switch {
				case errors.Is(err, block.ErrNotFound):
					missing++
				case err != nil:
					t.Error(err)
				}
			}
		}
		return right, missing
	}
	total := 0
	for _, stream := range mixed().streams() {
		total += int(block.Count(int64(len(stream))))
	}
	n, stop := start(t, node.Config{Dir: dir})
	if right, missing := lend(n); right != 0 || missing != total {
		t.Errorf("without digests %d blocks are sent, %d of %d are missing", right, missing, total)
	}
	stop()
	n, _ = start(t, node.Config{Dir: dir, Images: func(context.Context) ([]*node.Image, error) { return []*node.Image{found}, nil }})
	if right, missing := lend(n); right != total-1 || missing != 1 {
		t.Errorf("%d blocks are sent, %d of %d are missing", right, missing, total)
	}
	if !node.Known(n, id) {
		t.Error("the layer is not known while it is lent")
	}
	p2ptest.Await(t, "the end of the loan", func() bool { return !node.Known(n, id) })
}

// flip inverts a byte of a file.
func flip(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{b[0] ^ 0xff}, off); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A layer index that the disk has changed while no process was watching is never sent to a peer: it
// counts as not there, and nobody is banned.
func TestDamagedIndexIsNotSentToPeers(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	damaged, healthy := newMember(t, 1), newMember(t, 2)
	cfg := node.Config{Dir: damaged.dir, Listen: []string{damaged.listen}}
	cfg.Peers = append(cfg.Peers, healthy.peer)
	_, stop := fillCache(t, cfg, image)
	stop()
	objects, err := filepath.Glob(filepath.Join(damaged.dir, "objects", "*"))
	if err != nil || len(objects) < len(mixed().layers) {
		t.Fatalf("objects %v, %v", objects, err)
	}
	objects = slices.DeleteFunc(objects, func(path string) bool { return !isIndex(t, path) })
	for _, path := range objects[1:] {
		flip(t, path, 50)
	}
	metrics := prometheus.NewRegistry()
	sender := cfg
	sender.Metrics = metrics
	start(t, sender)
	theirs := prometheus.NewRegistry()
	other := node.Config{Dir: healthy.dir, Listen: []string{healthy.listen}, Metrics: theirs}
	other.Peers = append(other.Peers, damaged.peer)
	n, _ := start(t, other)
	awaitPeers(t, theirs, 1)
	awaitPeers(t, metrics, 1)
	m := mount(t, n, image)
	requireFiles(t, m.Target(), mixed().files)
	for i, path := range objects {
		_, err := os.Stat(path)
		if there := err == nil; there != (i == 0) {
			t.Errorf("object %d, damaged: %t, is there: %t", i, i > 0, there)
		}
	}
	if n := bans(t, theirs); n > 0 {
		t.Errorf("%v bans", n)
	}
}

// isIndex reports whether an object is a layer index, or the head of one.
func isIndex(t *testing.T, path string) bool {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.HasPrefix(content, []byte("BRISKIDX"))
}

// bans counts the peers that were banned.
func bans(t *testing.T, metrics prometheus.Gatherer) (n float64) {
	t.Helper()
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "brisk_p2p_bans_total" {
			continue
		}
		for _, metric := range f.GetMetric() {
			n += metric.GetCounter().GetValue()
		}
	}
	return n
}
