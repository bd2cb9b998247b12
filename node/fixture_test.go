package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envWorker); dir != "" {
		os.Exit(runWorker(dir))
	}
	if code, done := mountns.Rerun(); done {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m, registrytest.LeakOptions()...)
}

// forEachBackend runs a test on every backend.
func forEachBackend(t *testing.T, test func(t *testing.T, backend lazyfs.Backend)) {
	t.Helper()
	require.FUSE(t)
	for _, backend := range lazyfs.Backends() {
		t.Run(string(backend), func(t *testing.T) { test(t, backend) })
	}
}

// The files of the mixed image, one of 3 MiB in each of its layers.
const (
	gzipFile  = "data-1/file-0000"
	zstdFile  = "data-2/file-0000"
	plainFile = "data-3/file-0000"
)

// content is an image and what is in it.
type content struct {
	layers []registrytest.Layer
	files  map[string][]byte
}

// mixed is an image with a layer of each kind that can be read in parts: gzip, zstd
// frames and plain tar. It is compressed once for all tests.
var mixed = sync.OnceValue(func() content {
	return makeContent(3<<20,
		registrytest.Layer{Level: 1},
		registrytest.Layer{Compression: registrytest.Zstd, Level: 1, FrameSize: 512 << 10},
		registrytest.Layer{Compression: registrytest.None},
	)
})

// makeContent puts one file of size bytes into each layer.
func makeContent(size int, layers ...registrytest.Layer) content {
	c := content{files: make(map[string][]byte)}
	for i, l := range layers {
		files := registrytest.Files(uint64(i+1), 1, size)
		l.Tar = registrytest.Tar(&never{}, files...)
		l.Blob = registrytest.Compress(&never{}, l)
		c.layers = append(c.layers, l)
		c.files[files[1].Name] = files[1].Data
	}
	return c
}

// never is a test that does not fail, for what is made once for all tests.
type never struct{ testing.TB }

func (*never) Helper() {}

func (*never) Fatalf(format string, args ...any) { panic(fmt.Sprintf("fixture: "+format, args...)) }

// streamID names a layer stream as caches and peers do.
func streamID(stream []byte) block.Digest {
	var digests []byte
	for i := range block.Count(int64(len(stream))) {
		sum := block.Sum(blockOf(stream, i))
		digests = append(digests, sum[:]...)
	}
	return block.StreamID(int64(len(stream)), digests)
}

// streams returns the layer streams by their names.
func (c content) streams() map[block.Digest][]byte {
	all := make(map[block.Digest][]byte)
	for _, l := range c.layers {
		all[streamID(l.Tar)] = l.Tar
	}
	return all
}

// StreamSize implements [block.Layout].
func (c content) StreamSize(layer block.Digest) (int64, bool) {
	stream, ok := c.streams()[layer]
	return int64(len(stream)), ok
}

// BlockDigest implements [block.Layout].
func (c content) BlockDigest(k block.Key) (block.Digest, bool) {
	stream, ok := c.streams()[k.Layer]
	if !ok || k.Index >= block.Count(int64(len(stream))) {
		return block.Digest{}, false
	}
	return block.Sum(blockOf(stream, k.Index)), true
}

// isLayer matches reads of the layers of the image in a registry.
func (c content) isLayer(r *http.Request) bool {
	return slices.ContainsFunc(c.layers, func(l registrytest.Layer) bool {
		return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+block.Sum(l.Blob).String())
	})
}

func blockOf(stream []byte, i uint32) []byte {
	off := int64(i) * block.Size
	return stream[off : off+int64(block.Length(int64(len(stream)), i))]
}

// newClient makes a registry client for one test.
func newClient(t *testing.T) *registry.Client {
	t.Helper()
	client, err := registry.NewClient(registry.Config{Keychain: registrytest.Keychain(registrytest.User)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// tarLayers returns layers that hold the given tars, stored with gzip.
func tarLayers(tars [][]byte) []registrytest.Layer {
	var layers []registrytest.Layer
	for _, tar := range tars {
		layers = append(layers, registrytest.Layer{Tar: tar, Level: 1})
	}
	return layers
}

// push puts an image with its index into a registry.
func push(t *testing.T, reg *registrytest.Registry, ref string, layers []registrytest.Layer) string {
	t.Helper()
	pushed := reg.Push(t, ref, registrytest.Image{Layers: layers})
	if _, err := convert.Convert(t.Context(), newClient(t), pushed, convert.Config{}); err != nil {
		t.Fatal(err)
	}
	return pushed.String()
}

// start makes a node and runs it until stop or the end of the test.
func start(t *testing.T, cfg node.Config) (n *node.Node, stop func()) {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "node")
	}
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 1 << 30
	}
	if cfg.MemoryBytes == 0 {
		cfg.MemoryBytes = 8 << 20
	}
	if cfg.ReadTimeout == 0 {
		cfg.ReadTimeout = 30 * time.Second
	}
	client := newClient(t)
	cfg.Registry = client
	cfg.Log = slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		client.Close()
	})
	t.Cleanup(stop)
	return n, stop
}

// testLog writes to the log of a test, which is shown when the test fails.
type testLog struct{ t *testing.T }

// Write implements [io.Writer].
func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// mount mounts an image that nothing is to be loaded of but what is read.
func mount(t *testing.T, n *node.Node, image string) *node.Mount {
	t.Helper()
	return mountWith(t, n, node.MountRequest{Image: image, NoFill: true})
}

// mountWith mounts an image on a directory of its own.
func mountWith(t *testing.T, n *node.Node, req node.MountRequest) *node.Mount {
	t.Helper()
	if req.Target == "" {
		req.Target = t.TempDir()
	}
	m, err := n.Mount(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// readPart reads n bytes of a file, and fewer only at its end.
func readPart(path string, off int64, n int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	p := make([]byte, n)
	got, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return p[:got], err
}

// requireFiles reads all files of an image below a directory.
func requireFiles(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: error %v, %d bytes, or wrong bytes", name, err, len(got))
		}
	}
}

// requireRightCache opens the disk cache of a node that has ended and looks at every
// block of it, and at the data files beneath. It returns how many blocks it holds.
func requireRightCache(t *testing.T, dir string, c content) (held int) {
	t.Helper()
	disk, err := cache.OpenDisk(cache.DiskConfig{Dir: filepath.Join(dir, "cache"), Layout: c})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close() //nolint:errcheck // nothing has changed
	for id, stream := range c.streams() {
		raw, err := os.ReadFile(filepath.Join(dir, "cache", "layers", id.Hex(), "data"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for i := range block.Count(int64(len(stream))) {
			want := blockOf(stream, i)
			req := block.Request{Range: block.Range{Layer: id, First: i, Count: 1}}
			err := disk.Fetch(t.Context(), req, func(k block.Key, data []byte) error {
				held++
				if !bytes.Equal(data, want) {
					t.Errorf("the cache holds wrong bytes of block %s", k)
				}
				return nil
			})
			if err != nil && !errors.Is(err, block.ErrNotFound) {
				t.Error(err)
			}
			if off := int64(i) * block.Size; len(raw) > 0 {
				if got := raw[off : off+int64(len(want))]; !bytes.Equal(got, want) && !bytes.Equal(got, make([]byte, len(want))) {
					t.Errorf("the data file holds wrong bytes of block %d of layer %s", i, id.Short())
				}
			}
		}
	}
	return held
}
