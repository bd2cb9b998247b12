package node_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/brisk-project/brisk/cmd/internal/node"
	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
	"github.com/brisk-project/brisk/test/torture"
)

// newClient makes a registry client for one test.
func newClient(t *testing.T) *registry.Client {
	t.Helper()
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// push puts an image with its index into a registry.
func push(t *testing.T, reg *registrytest.Registry, ref string, layers [][]byte) string {
	t.Helper()
	var image registrytest.Image
	for _, layer := range layers {
		image.Layers = append(image.Layers, registrytest.Layer{Tar: layer, Compression: registrytest.Gzip})
	}
	pushed := reg.Push(t, ref, image)
	client := newClient(t)
	if _, err := convert.Convert(t.Context(), client, pushed, convert.Config{}); err != nil {
		t.Fatal(err)
	}
	return pushed.String()
}

// run makes a node and runs it until the test ends.
func run(t *testing.T, cfg node.Config) *node.Node {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "node")
	}
	cfg.CacheBytes, cfg.MemoryBytes = 1<<30, 8<<20
	if cfg.ReadTimeout == 0 {
		cfg.ReadTimeout = 10 * time.Second
	}
	cfg.Registry = newClient(t)
	n, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return n
}

func TestMountEqualsUnpacked(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	for _, image := range torture.Images() {
		t.Run(image.Name, func(t *testing.T) {
			want, err := fstree.Unpack(t.Context(), fstree.TempDir(t), image.Unpackable())
			if err != nil {
				t.Fatal(err)
			}
			ref := push(t, reg, "torture/"+image.Name, image.Layers)
			for _, backend := range lazyfs.Backends() {
				t.Run(string(backend), func(t *testing.T) {
					n := run(t, node.Config{Backend: backend})
					target := t.TempDir()
					m, err := n.Mount(t.Context(), node.MountRequest{Image: ref, Target: target})
					if err != nil {
						t.Fatal(err)
					}
					got, err := fstree.Take(target)
					if err != nil {
						t.Fatal(err)
					}
					for _, line := range fstree.Diff(want, got) {
						t.Error(line)
					}
					if err := m.Unmount(t.Context()); err != nil {
						t.Error(err)
					}
					if left, err := os.ReadDir(target); err != nil || len(left) != 0 {
						t.Errorf("after unmounting the target holds %v (%v)", left, err)
					}
				})
			}
		})
	}
}
