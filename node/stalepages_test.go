package node_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/scrub"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// rotEdges inverts bytes in the middle and at both ends, where pages of files go across
// blocks, of blocks of the second file of every layer.
func rotEdges(t *testing.T, dir string, c content) (bad int64) {
	t.Helper()
	for id, stream := range c.streams() {
		f, err := os.OpenFile(filepath.Join(dir, "cache", "layers", id.Hex(), "data"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i := uint32(firstSize/block.Size + 1); i < firstSize/block.Size+4; i++ {
			data := blockOf(stream, i)
			for _, at := range []int{0, len(data) / 2, len(data) - 1} {
				if _, err := f.WriteAt([]byte{data[at] ^ 0xff}, int64(i)*block.Size+int64(at)); err != nil {
					t.Fatal(err)
				}
			}
			bad++
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return bad
}

// firstSize is the size of the first file of a layer of [twoFiles].
const firstSize = 4 << 20

// twoFiles is an image whose layers have two files, and only the second of them in its files:
// reading that leaves the layer incomplete.
var twoFiles = sync.OnceValue(func() content {
	c := content{files: make(map[string][]byte)}
	for i, l := range []registrytest.Layer{{Level: 1}, {Compression: registrytest.None}} {
		files := append(registrytest.Files(uint64(i+1), 1, firstSize), registrytest.Files(uint64(i+11), 1, 1<<20)...)
		l.Tar = registrytest.Tar(&never{}, files...)
		l.Blob = registrytest.Compress(&never{}, l)
		c.layers = append(c.layers, l)
		c.files[files[3].Name] = files[3].Data
	}
	return c
})

// rottenMount mounts an image whose first file in each layer has rotten on disk, directly or
// behind FUSE, and has the wrong bytes read.
func rottenMount(t *testing.T, backend lazyfs.Backend, direct bool) (n *node.Node, m *node.Mount, bad int64) {
	t.Helper()
	reg := registrytest.New(t, registrytest.Config{})
	c := twoFiles()
	image := push(t, reg, "app:v1", c.layers)
	metrics := prometheus.NewRegistry()
	cfg := node.Config{Dir: filepath.Join(t.TempDir(), "node"), Backend: backend, Metrics: metrics}
	n, stop := start(t, cfg)
	m = mountWith(t, n, node.MountRequest{Image: image, NoFill: !direct})
	requireFiles(t, m.Target(), c.files)
	if direct {
		p2ptest.Await(t, "the whole image", func() bool { s := m.Status(); return s.CachedBytes == s.StreamBytes })
		// From then on nothing but a pass reads what the mounts read.
		awaitProven(t, metrics, len(c.layers))
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	cfg.Metrics = nil
	n, _ = start(t, cfg)
	m = mount(t, n, image)
	if got, want := m.Status().Direct, direct && backend != lazyfs.Tree; got != want {
		t.Fatalf("direct is %t", got)
	}
	bad = rotEdges(t, cfg.Dir, c)
	for name, want := range c.files {
		if got, err := os.ReadFile(filepath.Join(m.Target(), name)); err != nil || bytes.Equal(got, want) {
			t.Fatalf("%s has not rotten: %v", name, err)
		}
	}
	return n, m, bad
}

// A program that has read rotten bytes gets the right ones when it reads again after the
// repair, whatever page caches have kept, also in pages at the edges of blocks.
func TestMendedBytesAreSeen(t *testing.T) {
	for name, direct := range map[string]bool{"direct": true, "behind FUSE": false} {
		t.Run(name, func(t *testing.T) {
			forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
				t.Helper()
				n, m, bad := rottenMount(t, backend, direct)
				awaitScrub(t, n, "all blocks to be mended", func(s scrub.Status) bool { return s.RepairedBlocks == bad })
				requireFiles(t, m.Target(), twoFiles().files)
			})
		})
	}
}

// mapFile maps a file and touches its pages.
func mapFile(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	return mapped
}

// Pages that a program has mapped keep the rotten bytes until it unmaps them, which the status
// says, and no longer.
func TestMappedBytesAreSeenUntilUnmapped(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		n, m, bad := rottenMount(t, backend, true)
		maps := make(map[string][]byte)
		for name := range twoFiles().files {
			maps[name] = mapFile(t, filepath.Join(m.Target(), name))
		}
		awaitScrub(t, n, "all blocks to be mended", func(s scrub.Status) bool { return s.RepairedBlocks == bad })
		p2ptest.Await(t, "all blocks to be stale", func() bool { return int64(staleBlocks(n)) == bad })
		for name, mapped := range maps {
			if bytes.Equal(mapped, twoFiles().files[name]) {
				t.Errorf("%s: the kernel has replaced mapped pages", name)
			}
			if err := unix.Munmap(mapped); err != nil {
				t.Fatal(err)
			}
		}
		p2ptest.Await(t, "no block to be stale", func() bool { return staleBlocks(n) == 0 })
		requireFiles(t, m.Target(), twoFiles().files)
	})
}

func staleBlocks(n *node.Node) (stale int) {
	for _, b := range n.Status().Scrub.Corrupt {
		if b.Stale {
			stale++
		}
	}
	return stale
}
