package agent_test

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// startMode starts an agent that is ready.
func startMode(t *testing.T, edit func(*agent.Config)) *running {
	t.Helper()
	a := start(t, filepath.Join(t.TempDir(), "brisk"), edit)
	if err := a.agent.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a
}

// local returns how many per cent of the only image are on this machine.
func (r *running) local(t *testing.T) int64 {
	t.Helper()
	status, err := r.agent.Status(t.Context())
	if err != nil || len(status.Images) != 1 {
		t.Fatalf("status %+v, %v", status, err)
	}
	return status.Images[0].Local()
}

// TestFillBeginsWithPull checks that an image is loaded before it is mounted, unless that
// is not wanted or the cache cannot hold it, and not any more once it is removed.
func TestFillBeginsWithPull(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 3, 600<<10)...)
	for name, test := range map[string]struct {
		edit func(*agent.Config)
		want bool
	}{
		"auto":    {func(*agent.Config) {}, true},
		"fill":    {func(cfg *agent.Config) { cfg.Mode, cfg.Node.CacheBytes = agent.ModeFill, 3<<20 }, true},
		"lazy":    {func(cfg *agent.Config) { cfg.Mode = agent.ModeLazy }, false},
		"no room": {func(cfg *agent.Config) { cfg.Node.CacheBytes = 3 << 20 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := startMode(t, test.edit)
			a.pull(t, image)
			if test.want {
				containerdtest.Await(t, "the image", containerdtest.Timeout, func() bool { return a.local(t) == 100 })
			}
			mounts, err := a.View(t.Context(), "view", image.chain[2].String())
			if err != nil {
				t.Fatal(err)
			}
			dir, undo := mountOn(t, mounts)
			requireFiles(t, dir, image.layers[:1], 1)
			if got := a.local(t); !test.want && got > 70 {
				t.Errorf("%d per cent were loaded, want about a third", got)
			}
			requireFiles(t, dir, image.layers, 3)
			undo()
			remove(t, a, "view", image.chain[2].String(), image.chain[1].String(), image.chain[0].String())
			containerdtest.Await(t, "nothing to be left", containerdtest.Timeout, func() bool {
				left, err := filepath.Glob(filepath.Join(a.dir, "cache", "layers", "*"))
				metadata, metadataErr := filepath.Glob(filepath.Join(a.dir, "mounts", "rootfs", "*"))
				return err == nil && metadataErr == nil && len(left)+len(metadata) == 0
			})
		})
	}
}

// TestRemovedWhileItIsPrepared removes an image that is still being loaded.
func TestRemovedWhileItIsPrepared(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 2, 8<<20)...)
	a := startMode(t, nil)
	a.pull(t, image)
	remove(t, a, image.chain[1].String(), image.chain[0].String())
	containerdtest.Await(t, "nothing to be left", containerdtest.Timeout, func() bool {
		var left []string
		for _, pattern := range []string{"cache/layers/*", "mounts/rootfs/*", "objects/*"} {
			found, err := filepath.Glob(filepath.Join(a.dir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			left = slices.Concat(left, found)
		}
		return len(left) == 0
	})
}

func TestPlainMode(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", true, fileLayers(t, 1, 1000)...)
	a := startMode(t, func(cfg *agent.Config) { cfg.Mode = agent.ModePlain })
	if err := a.prepareLayer(t.Context(), image, 0); err != nil {
		t.Errorf("the pull is not plain: %v", err)
	}
	if pulls := a.agent.Snapshots().Pulls(); len(pulls) != 1 || pulls[0].Reason != snapshotter.ReasonMode {
		t.Errorf("status %+v", pulls)
	}
}
