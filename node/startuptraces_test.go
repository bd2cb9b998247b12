package node_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// squeezed is a cache that one image of the tests of starts fills twice over.
const squeezed = 8 << 20

// other is an image that has nothing in common with large.
var other = sync.OnceValue(func() content {
	return makeContent(12<<20, registrytest.Layer{Compression: registrytest.None})
})

// touched are the pages that a start of large reads, in this order, by layer: one of a block.
func touched() startup.Trace {
	gzip, plain := streamID(large().layers[0].Tar), streamID(large().layers[1].Tar)
	page := func(layer block.Digest, number int64) startup.Span {
		return startup.Span{Layer: layer, Offset: number*block.Size + 128<<10, Length: startup.PageSize}
	}
	return startup.Trace{
		page(gzip, 21),
		page(plain, 9),
		page(gzip, 5),
		page(gzip, 29),
		page(plain, 2),
	}
}

// runStart mounts large, reads what a start reads, and unmounts it.
func runStart(t *testing.T, n *node.Node, dir, image string) {
	t.Helper()
	m := mount(t, n, image)
	names := map[block.Digest]string{touched()[0].Layer: largeGzip, touched()[1].Layer: largePlain}
	for _, r := range touched() {
		path := filepath.Join(m.Target(), names[r.Layer])
		files := []string{path}
		if flat := filepath.Join(dir, "mounts", "flat", r.Layer.Hex()); exists(flat) {
			files = append(files, flat)
		}
		off := r.Offset - largeStart
		if err := forget(files...); err != nil {
			t.Fatal(err)
		}
		got, err := readPart(path, off, 4096)
		if err != nil || !bytes.Equal(got, large().files[names[r.Layer]][off:off+4096]) {
			t.Fatalf("at %d of %s: error %v or wrong bytes", off, names[r.Layer], err)
		}
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// traces returns the files of the traces of a node.
func traces(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "traces", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// merged returns the trace in a file of a node.
func merged(t *testing.T, content []byte) startup.Trace {
	t.Helper()
	history, err := startup.ParseHistory(content)
	if err != nil {
		t.Fatal(err)
	}
	return history.Trace()
}

// fetched returns an image whose indexes are local.
func fetched(t *testing.T, n *node.Node, ref string, prepare func(*node.Image) bool) *node.Image {
	t.Helper()
	<-n.Ready()
	image, err := n.Find(t.Context(), ref, block.Digest{}, v1.Platform{})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Fetch(t.Context(), image, prepare); err != nil {
		t.Fatal(err)
	}
	return image
}

// layerReads returns what the registry was asked for of the layers of an image.
func layerReads(reg *registrytest.Registry, c content) (ranges []string) {
	for _, r := range reg.BlobRequests() {
		for _, l := range c.layers {
			if strings.HasSuffix(r.Path, block.Sum(l.Blob).String()) {
				ranges = append(ranges, r.Range)
			}
		}
	}
	return ranges
}

// TestStart follows the start-up set of an image: it is learnt, stays when the cache is
// squeezed and when the node is started again. When the image is removed its blocks go, and
// its trace stays for the next pull.
func TestStart(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	another := push(t, reg, "other:v1", other().layers)
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		dir := emptyTemp(t)
		cfg := node.Config{Dir: filepath.Join(dir, "node"), Backend: backend, CacheBytes: squeezed, MemoryBytes: 1 << 20}
		n, stop := start(t, cfg)
		if _, known := n.ImageStatus(fetched(t, n, image, nil)).StartMissing(); known {
			t.Error("the start-up set is known before a start")
		}
		runStart(t, n, cfg.Dir, image)
		files := traces(t, cfg.Dir)
		if len(files) != 1 {
			t.Fatalf("traces: %v, want one", files)
		}
		content, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		got := merged(t, content)
		if diff := cmp.Diff(touched().Blocks(), got.Blocks()); diff != "" {
			t.Errorf("what the start has read:\n%s", diff)
		}
		// Pages, with those that the kernel reads around them where layers do not align files.
		if n := got.Bytes(); n > 4*touched().Bytes() || got.Union(touched()).Bytes() != n {
			t.Errorf("a start that read %v has the trace %v", touched(), got)
		}

		for _, again := range []bool{false, true} {
			if again {
				stop()
				n, stop = start(t, cfg)
			}
			m := mount(t, n, another)
			requireFiles(t, m.Target(), other().files)
			if err := m.Unmount(t.Context()); err != nil {
				t.Fatal(err)
			}
			status := n.ImageStatus(fetched(t, n, image, nil))
			want := &node.StartStatus{Bytes: int64(len(touched())) * block.Size, Pinned: true, Source: node.TraceRecorded}
			if diff := cmp.Diff(want, status.Start); diff != "" {
				t.Errorf("after the other image was read, started again %v:\n%s", again, diff)
			}
			if status.CachedBytes > squeezed/2 {
				t.Errorf("%d bytes of the image are left: the cache was not squeezed", status.CachedBytes)
			}
			reg.ResetRequests()
			runStart(t, n, cfg.Dir, image)
			if made := layerReads(reg, large()); len(made) > 0 {
				t.Errorf("a start has asked the registry for %v", made)
			}
		}

		if err := n.Retain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		status := n.ImageStatus(fetched(t, n, image, nil))
		want := &node.StartStatus{Bytes: int64(len(touched())) * block.Size, MissingBytes: int64(len(touched())) * block.Size, Source: node.TraceRecorded}
		if diff := cmp.Diff(want, status.Start); diff != "" || status.CachedBytes > 0 {
			t.Errorf("after the image was dropped %d bytes of it are cached\n%s", status.CachedBytes, diff)
		}
		again := fetched(t, n, image, func(*node.Image) bool { return false })
		p2ptest.Await(t, "the start-up set after another pull", func() bool {
			start := n.ImageStatus(again).Start
			return start.MissingBytes == 0 && start.Pinned
		})
		stop()
	})
}

// TestStartIsLoadedFirst checks that what is missing of a start-up set is loaded by a pull and
// by a mount, and nothing else.
func TestStartIsLoadedFirst(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	cfg := node.Config{Dir: filepath.Join(t.TempDir(), "node")}
	n, stop := start(t, cfg)
	runStart(t, n, cfg.Dir, image)
	held := n.ImageStatus(fetched(t, n, image, nil)).CachedBytes
	for name, load := range map[string]func(n *node.Node){
		"pull":  func(n *node.Node) { fetched(t, n, image, func(*node.Image) bool { return false }) },
		"mount": func(n *node.Node) { mount(t, n, image) },
	} {
		stop()
		if err := os.RemoveAll(filepath.Join(cfg.Dir, "cache")); err != nil {
			t.Fatal(err)
		}
		n, stop = start(t, cfg)
		found := fetched(t, n, image, nil)
		if missing, known := n.ImageStatus(found).StartMissing(); missing != int64(len(touched()))*block.Size || !known {
			t.Errorf("%s: %d bytes missing, known %v, want all of it", name, missing, known)
		}
		load(n)
		p2ptest.Await(t, "the start-up set after a "+name, func() bool {
			missing, _ := n.ImageStatus(found).StartMissing()
			return missing == 0
		})
		if status := n.ImageStatus(found); status.CachedBytes > held {
			t.Errorf("%s: %d bytes were loaded, and %d when they were read", name, status.CachedBytes, held)
		}
	}
	stop()
}

// TestTraceIsDamaged holds that a damaged trace is none, and that nothing else is lost by it.
func TestTraceIsDamaged(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	cfg := node.Config{Dir: filepath.Join(t.TempDir(), "node")}
	n, stop := start(t, cfg)
	runStart(t, n, cfg.Dir, image)
	held := n.ImageStatus(fetched(t, n, image, nil)).CachedBytes
	stop()
	file := traces(t, cfg.Dir)[0]
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, damaged := range [][]byte{content[:len(content)/2], slices.Concat(content, []byte{'\n'}), nil, bytes.Repeat([]byte{'a'}, 1<<20)} {
		if err := os.WriteFile(file, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		n, stop = start(t, cfg)
		status := n.ImageStatus(fetched(t, n, image, nil))
		if status.Start != nil || status.CachedBytes != held || exists(file) {
			t.Errorf("with %d bytes of %d: %+v", len(damaged), len(content), status)
		}
		stop()
	}
	n, stop = start(t, cfg)
	runStart(t, n, cfg.Dir, image)
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, content) {
		t.Errorf("what is learnt again: %q, %v", again, err)
	}
	stop()
}
