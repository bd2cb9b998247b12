package agent_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// clock is a clock that only moves when it is told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// idleNode is an agent that keeps idle mounts, and images for it.
type idleNode struct {
	*running
	t      *testing.T
	clock  *clock
	images []pushed
	log    *lockedBuffer
	short  chan struct{} // has something in it when memory is short
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.buf.String(), text)
}

// newIdleNode starts an agent that keeps as many idle mounts for an hour, and pulls as many
// images.
func newIdleNode(t *testing.T, keep, images int, backend lazyfs.Backend) *idleNode {
	t.Helper()
	n := newIdleNodeWith(t, idleConfig{keep: keep, images: images, size: 600 << 10, cache: 1 << 30, backend: backend})
	for _, image := range n.images {
		n.pull(t, image)
	}
	return n
}

// idleConfig configures an agent that keeps idle mounts.
type idleConfig struct {
	keep    int // idle mounts
	images  int // that are pushed
	size    int // of each of them in bytes
	cache   int64
	backend lazyfs.Backend
	lazy    bool // nothing is loaded but what is read
}

func newIdleNodeWith(t *testing.T, with idleConfig) *idleNode {
	t.Helper()
	require.FUSE(t)
	n := &idleNode{t: t, clock: &clock{now: time.Now()}, log: &lockedBuffer{}, short: make(chan struct{})}
	reg := registrytest.New(t, registrytest.Config{})
	for i := range with.images {
		layers := fileLayers(t, 1, with.size)
		layers[0].Tar = append(slices.Clip(layers[0].Tar), make([]byte, (i+1)*10240)...)
		n.images = append(n.images, push(t, reg, fmt.Sprintf("app%d:v1", i), true, layers...))
	}
	n.running = start(t, filepath.Join(t.TempDir(), "brisk"), func(cfg *agent.Config) {
		cfg.Node.Backend, cfg.Node.CacheBytes, cfg.Mode = with.backend, with.cache, agent.ModeFill
		cfg.Node.Log = slog.New(slog.NewTextHandler(io.MultiWriter(testLog{t}, n.log), nil))
		if with.lazy {
			cfg.Mode, cfg.Node.StartDuration = agent.ModeLazy, 100*time.Millisecond
		}
		cfg.Idle, cfg.Now = snapshotter.IdleMounts{Max: with.keep, Timeout: time.Hour}, n.clock.Now
		cfg.Pressure = func(ctx context.Context, short func()) error {
			for {
				select {
				case <-n.short:
					short()
				case <-ctx.Done():
					return nil
				}
			}
		}
	})
	return n
}

// use makes a snapshot of an image, reads it, removes the snapshot, and returns the number of the
// mount.
func (n *idleNode) use(image int) uint64 {
	n.t.Helper()
	mounts, err := n.Prepare(n.t.Context(), "used", n.images[image].chain[0].String())
	if err != nil {
		n.t.Fatal(err)
	}
	dir, undo := mountOn(n.t, mounts)
	requireFiles(n.t, dir, n.images[image].layers, 1)
	undo()
	var lower string
	for _, option := range mounts[0].Options {
		if path, ok := strings.CutPrefix(option, "lowerdir="); ok {
			lower = path
		}
	}
	var stat unix.Statx_t // Linux before 6.8 has only numbers that it uses again
	if err := unix.Statx(unix.AT_FDCWD, lower, 0, unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE, &stat); err != nil {
		n.t.Fatal(err)
	}
	remove(n.t, n, "used")
	return stat.Mnt_id
}

// requireIdle waits until just these images are mounted and idle, the first one used last.
func (n *idleNode) requireIdle(images ...int) {
	n.t.Helper()
	want := make([]string, 0, len(images))
	for _, image := range images {
		info, err := n.Stat(n.t.Context(), n.images[image].chain[0].String())
		if err != nil {
			n.t.Fatal(err)
		}
		want = append(want, info.Labels[snapshotter.LabelImage])
	}
	containerdtest.Await(n.t, fmt.Sprintf("the images %v being idle", images), containerdtest.Timeout, func() bool {
		var got []string
		for _, idle := range n.agent.Snapshots().IdleMounts() {
			got = append(got, idle.Image)
		}
		return strings.Join(got, " ") == strings.Join(want, " ")
	})
	containerdtest.Await(n.t, "others being unmounted", containerdtest.Timeout, func() bool {
		roots := 0
		for _, point := range mountsBelow(n.t, n.dir) {
			if strings.HasSuffix(point, "/fs") {
				roots++
			}
		}
		return roots == len(images)
	})
}

func TestIdleMountIsReused(t *testing.T) {
	for _, backend := range lazyfs.Backends() {
		t.Run(string(backend), func(t *testing.T) {
			n := newIdleNode(t, 2, 1, backend)
			first := n.use(0)
			n.requireIdle(0)
			status, err := n.agent.Status(t.Context())
			if err != nil || status.IdleMounts != 1 || len(status.Images) != 1 || !status.Images[0].IdleSince.Equal(n.clock.Now()) {
				t.Errorf("status %+v, %v", status, err)
			}
			if second := n.use(0); second != first {
				t.Errorf("the second snapshot is on mount %d, the first one was on %d", second, first)
			}
			if made := n.log.count("msg=mounted"); made != 1 {
				t.Errorf("the image was mounted %d times", made)
			}
		})
	}
}

func TestIdleMountsAreBoundedInNumber(t *testing.T) {
	n := newIdleNode(t, 2, 3, "")
	for image := range 3 {
		n.use(image)
		n.clock.advance(time.Minute)
	}
	n.requireIdle(2, 1)
	n.use(1)
	n.clock.advance(time.Minute)
	n.use(0)
	n.requireIdle(0, 1)
}

func TestIdleMountsAreBoundedInTime(t *testing.T) {
	n := newIdleNode(t, 5, 2, "")
	n.use(0)
	n.clock.advance(59 * time.Minute)
	n.use(1)
	n.requireIdle(1, 0)
	n.clock.advance(2 * time.Minute)
	n.use(1)
	n.requireIdle(1)
}

// TestIdleMountGoesWithItsImage removes images whose mounts are idle, as containerd does.
func TestIdleMountGoesWithItsImage(t *testing.T) {
	n := newIdleNode(t, 5, 2, "")
	n.use(0)
	n.use(1)
	n.requireIdle(1, 0)
	remove(t, n, n.images[0].chain[0].String())
	n.requireIdle(1)
	remove(t, n, n.images[1].chain[0].String())
	requireNothing(t, n.dir)
	n.pull(t, n.images[0])
	n.use(0)
	n.requireIdle(0)
}

// TestFailedSnapshotLeavesNoIdleMount removes an image while a snapshot of it is made that
// fails.
func TestFailedSnapshotLeavesNoIdleMount(t *testing.T) {
	n := newIdleNode(t, 5, 1, "")
	parent := n.images[0].chain[0].String()
	if _, err := n.Prepare(t.Context(), "taken", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Prepare(t.Context(), "taken", parent); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a snapshot with a name that is taken: %v", err)
	}
	remove(t, n, "taken", parent)
	requireNothing(t, n.dir)
}

func TestMemoryPressureGivesIdleMountsUp(t *testing.T) {
	n := newIdleNode(t, 5, 3, "")
	for image := range 3 {
		n.use(image)
		n.clock.advance(time.Minute)
	}
	n.requireIdle(2, 1, 0)
	n.short <- struct{}{}
	n.requireIdle(2)
	n.use(1)
	n.requireIdle(1, 2)
	n.short <- struct{}{}
	n.requireIdle(1)
	n.short <- struct{}{}
	n.requireIdle()
}

// TestIdleMountsMakeRoom fills the cache while idle mounts read layers as plain files, of which
// nothing can be evicted.
func TestIdleMountsMakeRoom(t *testing.T) {
	const size = 20 << 20 // of each image; the cache has room for one
	n := newIdleNodeWith(t, idleConfig{keep: 5, images: 2, size: size, cache: size * 3 / 2})
	// Nothing is loaded for a pull before that.
	containerdtest.Await(t, "the agent being ready", containerdtest.Timeout, func() bool { return len(n.agent.NotReady(t.Context())) == 0 })
	cached := func(image int) bool {
		usage, err := n.Usage(t.Context(), n.images[image].chain[0].String())
		return err == nil && usage.Size > size
	}
	n.pull(t, n.images[0])
	containerdtest.Await(t, "the first image being cached", containerdtest.Timeout, func() bool { return cached(0) })
	n.use(0)
	n.requireIdle(0)
	n.pull(t, n.images[1])
	containerdtest.Await(t, "the second image being cached", containerdtest.Timeout, func() bool {
		// What comes while the cache is full is not cached, but what is read after that is.
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
			t.Error(err)
		}
		n.use(1)
		return cached(1)
	})
	n.requireIdle(1)
}
