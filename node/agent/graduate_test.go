package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/test/containerdtest"
)

// TestIdleMountGraduates has an image become complete while its mount is idle. The next
// container is to read plain files, and to find in the page cache what the last one has left there.
func TestIdleMountGraduates(t *testing.T) {
	for _, backend := range lazyfs.Backends() {
		t.Run(string(backend), func(t *testing.T) {
			n := newIdleNodeWith(t, idleConfig{keep: 2, images: 1, size: 2 << 20, cache: 1 << 30, backend: backend, lazy: true})
			n.pull(t, n.images[0])
			first := n.use(0)
			n.requireIdle(0)
			if backend == lazyfs.Tree {
				n.clock.advance(time.Minute)
				if again := n.use(0); again != first {
					t.Errorf("the second snapshot is on mount %d, the first one was on %d", again, first)
				}
				return
			}
			n.clock.advance(time.Minute)
			if again := n.use(0); again != first {
				t.Fatalf("an incomplete image was mounted anew: %d, %d", first, again)
			}
			n.complete()
			containerdtest.Await(t, "the start being learnt", containerdtest.Timeout, func() bool {
				traces, err := filepath.Glob(filepath.Join(n.dir, "traces", "*"))
				return err == nil && len(traces) > 0
			})
			n.requireIdle(0)
			n.clock.advance(time.Minute)
			containerdtest.Await(t, "the image being mounted anew", containerdtest.Timeout, func() bool { return n.log.count("direct=true") == 1 })
			root := n.root()
			containerdtest.Await(t, "the page cache being filled", containerdtest.Timeout, func() bool {
				pages, err := kernel.CachedPages(filepath.Join(root, fileName(0)))
				return err == nil && pages > 0
			})
			if second := n.use(0); second == first {
				t.Errorf("the second snapshot is on mount %d as the first one", second)
			}
			n.requireIdle(0)
			if made := n.log.count("msg=mounted"); made != 2 {
				t.Errorf("the image was mounted %d times", made)
			}
		})
	}
}

// complete loads all of the image that is mounted: it reads the file with its layer.
func (n *idleNode) complete() {
	n.t.Helper()
	layers, err := filepath.Glob(filepath.Join(n.dir, "*", "layers", "*"))
	if err != nil || len(layers) != 1 {
		n.t.Fatalf("the cache has the layers %v, %v", layers, err)
	}
	for _, point := range mountsBelow(n.t, n.dir) {
		if strings.HasSuffix(point, "/fs") {
			continue
		}
		if _, err := os.ReadFile(filepath.Join(point, filepath.Base(layers[0]))); err != nil {
			n.t.Fatal(err)
		}
		return
	}
	n.t.Fatalf("no layer is mounted below %s", n.dir)
}

// root returns where the only image is mounted.
func (n *idleNode) root() string {
	n.t.Helper()
	for _, point := range mountsBelow(n.t, n.dir) {
		if strings.HasSuffix(point, "/fs") {
			return point
		}
	}
	n.t.Fatal("no image is mounted")
	return ""
}
