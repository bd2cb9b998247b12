package node_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/scrub"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// rot inverts a byte in the middle of every block of the cache of a node.
func rot(t *testing.T, dir string, c content) (blocks int64) {
	t.Helper()
	for id, stream := range c.streams() {
		f, err := os.OpenFile(filepath.Join(dir, "cache", "layers", id.Hex(), "data"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := range block.Count(int64(len(stream))) {
			data := blockOf(stream, i)
			at := len(data) / 2
			if _, err := f.WriteAt([]byte{data[at] ^ 0xff}, int64(i)*block.Size+int64(at)); err != nil {
				t.Fatal(err)
			}
			blocks++
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return blocks
}

// fillCache loads an image into a node, which it stops if that is wanted.
func fillCache(t *testing.T, cfg node.Config, image string) (n *node.Node, stop func()) {
	t.Helper()
	n, stop = start(t, cfg)
	m := mount(t, n, image)
	requireFiles(t, m.Target(), mixed().files)
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	filled := mountWith(t, n, node.MountRequest{Image: image})
	p2ptest.Await(t, "the whole image", func() bool { s := filled.Status(); return s.CachedBytes == s.StreamBytes })
	if err := filled.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n, stop
}

// awaitScrub starts a pass and waits until it satisfies done.
func awaitScrub(t *testing.T, n *node.Node, what string, done func(scrub.Status) bool) {
	t.Helper()
	if err := n.Scrub(node.ScrubStart); err != nil {
		t.Fatal(err)
	}
	p2ptest.Await(t, what, func() bool { return done(n.Status().Scrub) })
}

// Rot behind FUSE and in files that the kernel reads directly is found and mended while
// the image is mounted; the mount then has the right bytes.
func TestRotUnderMountIsMended(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "node")
		cfg := node.Config{Dir: dir, Backend: backend, Images: nil}
		_, stop := fillCache(t, cfg, image)
		stop()
		n, stop := start(t, cfg)
		m := mount(t, n, image)
		if direct := m.Status().Direct; direct != (backend != lazyfs.Tree) {
			t.Errorf("direct is %t", direct)
		}
		bad := rot(t, dir, mixed())
		awaitScrub(t, n, "all blocks to be mended", func(s scrub.Status) bool {
			return s.FoundBlocks == bad && s.RepairedBlocks == bad
		})
		requireFiles(t, m.Target(), mixed().files)
		if n.Suspect() == "" {
			t.Errorf("%d rotten blocks do not make the disk suspect", bad)
		}
		for _, b := range n.Status().Scrub.Corrupt {
			if len(b.Images) != 1 || b.Images[0] != image {
				t.Errorf("the images of block %d are %v", b.Block, b.Images)
			}
		}
		if err := m.Unmount(t.Context()); err != nil {
			t.Error(err)
		}
		stop()
		requireRightCache(t, dir, mixed())
	})
}

// While the registry is down a rotten block behind FUSE is an error, never wrong bytes or
// zeros, and it is mended when the registry is back.
func TestRotWhileRegistryIsDown(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	dir := filepath.Join(t.TempDir(), "node")
	cfg := node.Config{Dir: dir, Backend: lazyfs.Tree, ReadTimeout: deadline}
	_, stop := fillCache(t, cfg, image)
	stop()
	bad := rot(t, dir, mixed())
	// From the beginning: a block that is mended before is not missed.
	reg.Inject(registrytest.Rule{
		Match: func(req *http.Request) bool { return req.Header.Get("Range") != "" }, // of layers
		Fault: registrytest.Status(http.StatusServiceUnavailable),
	})
	n, _ := start(t, cfg)
	m := mount(t, n, image)
	if _, err := readPart(filepath.Join(m.Target(), plainFile), 1<<20, 4096); err != nil { // it is in the page cache then
		t.Fatal(err)
	}
	awaitScrub(t, n, "an attempt to mend all blocks", func(s scrub.Status) bool {
		tried := 0
		for _, b := range s.Corrupt {
			if b.Error != "" {
				tried++
			}
		}
		return s.FoundBlocks == bad && int64(tried) == bad
	})
	requireEIO(t, filepath.Join(m.Target(), plainFile), 1<<20, 4096, 2*deadline)
	reg.ClearFaults()
	requireFiles(t, m.Target(), mixed().files)
}

// A peer is never sent rotten bytes, and does not ban who has them.
func TestRotIsNotSentToPeers(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	rotten, healthy := newMember(t, 1), newMember(t, 2)
	cfg := node.Config{Dir: rotten.dir, Listen: []string{rotten.listen}}
	cfg.Peers = append(cfg.Peers, healthy.peer)
	_, stop := fillCache(t, cfg, image)
	stop()
	rot(t, rotten.dir, mixed())
	sender, _ := start(t, cfg)
	mount(t, sender, image) // it announces and knows the layers
	metrics := prometheus.NewRegistry()
	other := node.Config{Dir: healthy.dir, Listen: []string{healthy.listen}, Metrics: metrics}
	other.Peers = append(other.Peers, rotten.peer)
	n, _ := start(t, other)
	awaitPeers(t, metrics, 1)
	m := mount(t, n, image)
	requireFiles(t, m.Target(), mixed().files)
	families, err := metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if name := f.GetName(); name == "brisk_p2p_bans_total" {
			for _, metric := range f.GetMetric() {
				if metric.GetCounter().GetValue() > 0 {
					t.Errorf("%s is %v", name, metric)
				}
			}
		}
	}
	p2ptest.Await(t, "the sender to notice", func() bool { return sender.Status().Scrub.FoundBlocks > 0 })
}
