package lazyfs_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

// openCache opens a disk cache in dir and returns it with the chain of sources that a
// node has over it.
func openCache(t *testing.T, dir string, fx *blocktest.Fixture, upstream block.Source) (*cache.Disk, block.Source) {
	t.Helper()
	disk, err := cache.OpenDisk(cache.DiskConfig{Dir: dir, Layout: fx})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- disk.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	verified := source.Verify(upstream, fx, source.VerifyConfig{})
	// How long anything takes here says nothing about a link: patience has no end.
	shared := source.NewSingleFlight(source.ReadThrough(disk, verified, source.ReadThroughConfig{}),
		source.SingleFlightConfig{HedgeDelay: time.Minute})
	return disk, source.Chain(source.Tier{Name: "disk", Source: disk}, source.Tier{Name: "upstream", Source: shared})
}

// TestGraduation reads an image through a real cache while it arrives, and mounts it
// again when it is complete: then nothing depends on this process or on the source.
func TestGraduation(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		low, high := blocktest.Random(1, 9<<20), blocktest.Random(2, 5<<20)
		streams := [][]byte{blocktest.Tar("low", low), blocktest.Tar("high", high)}
		n := newNode(streams...)
		disk, chain := openCache(t, t.TempDir(), n.fx, n)
		vfs := run(t, lazyfs.Config{Source: chain, Local: disk, Backend: backend})
		check := func(m *lazyfs.Mount) {
			t.Helper()
			for name, want := range map[string][]byte{"low": low, "high": high} {
				got, err := os.ReadFile(filepath.Join(m.Target(), name))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: error %v or wrong content", name, err)
				}
			}
		}
		first := mount(t, vfs, lazyfs.MountConfig{}, streams...)
		check(first)
		<-first.Filled()
		if s := first.Stats(); s.FillBlocks != s.TotalBlocks || s.Direct {
			t.Errorf("after the fill: %+v", s)
		}
		if err := first.Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
		for k := range n.fx.Keys() {
			n.Drop(k)
		}
		before := total(vfs.Requests())
		second := mount(t, vfs, lazyfs.MountConfig{}, streams...)
		check(second)
		if backend == lazyfs.Tree {
			return
		}
		if made := total(vfs.Requests()) - before; !second.Stats().Direct || made != 0 {
			t.Errorf("second mount: %+v, %d requests to user space", second.Stats(), made)
		}
	})
}
