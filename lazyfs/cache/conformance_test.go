package cache_test

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		os.Exit(victimMain(dir))
	}
	goleak.VerifyTestMain(m)
}

func TestMemoryConformance(t *testing.T) {
	for name, fx := range map[string]*blocktest.Fixture{"tar": blocktest.Standard(), "raw": blocktest.Raw()} {
		t.Run(name, func(t *testing.T) {
			blocktest.TestStore(t, fx, func(t *testing.T, _ *blocktest.Fixture) block.Store {
				t.Helper()
				m, err := cache.NewMemory(cache.MemoryConfig{MaxBytes: 64 << 20})
				if err != nil {
					t.Fatal(err)
				}
				return m
			})
		})
	}
}

// openDisk opens a cache that is closed at the end of the test.
func openDisk(tb testing.TB, cfg cache.DiskConfig) *cache.Disk {
	tb.Helper()
	d, err := cache.OpenDisk(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	return d
}

func TestDiskConformance(t *testing.T) {
	for name, fx := range map[string]*blocktest.Fixture{"tar": blocktest.Standard(), "raw": blocktest.Raw()} {
		t.Run(name, func(t *testing.T) {
			blocktest.TestStore(t, fx, func(t *testing.T, fx *blocktest.Fixture) block.Store {
				t.Helper()
				return openDisk(t, cache.DiskConfig{Dir: t.TempDir(), Layout: fx, MaxBytes: 64 << 20})
			})
		})
	}
}

// TestDiskConformanceAfterRestart runs the suite of sources over blocks that an
// earlier process has written, after a stop that was clean and one that was not.
func TestDiskConformanceAfterRestart(t *testing.T) {
	for name, stop := range map[string]func(d *cache.Disk) error{
		"clean":  (*cache.Disk).Close,
		"killed": (*cache.Disk).Abandon,
	} {
		t.Run(name, func(t *testing.T) {
			blocktest.TestSource(t, blocktest.Standard(), func(t *testing.T, fx *blocktest.Fixture) block.Source {
				t.Helper()
				cfg := cache.DiskConfig{Dir: t.TempDir(), Layout: fx}
				d, err := cache.OpenDisk(cfg)
				if err != nil {
					t.Fatal(err)
				}
				fill(t, d, fx)
				if err := d.Commit(); err != nil {
					t.Fatal(err)
				}
				if err := stop(d); err != nil {
					t.Fatal(err)
				}
				return openDisk(t, cfg)
			})
		})
	}
}

func fill(tb testing.TB, s block.Store, fx *blocktest.Fixture) {
	tb.Helper()
	for k := range fx.Keys() {
		if err := s.Put(context.Background(), k, fx.Content(k)); err != nil {
			tb.Fatal(err)
		}
	}
}
