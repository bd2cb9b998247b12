package node_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// allocated returns what a directory takes on disk, as du tells it, and of how many inodes.
// Files that go meanwhile do not count.
func allocated(dir string) (size, inodes int64) {
	_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error { //nolint:errcheck // as above
		var st syscall.Stat_t
		if err == nil && syscall.Lstat(path, &st) == nil {
			size += st.Blocks * 512
			inodes++
		}
		return nil
	})
	return size, inodes
}

// TestCacheOfHalf reads an image whose cache has room for half of it, from several sides at
// once: every byte is right, and the cache keeps its bound.
func TestCacheOfHalf(t *testing.T) {
	require.FUSE(t)
	const (
		layers, perLayer, fileSize = 4, 12, 1 << 20
		bound                      = layers * perLayer * fileSize / 2
		readers                    = 3
	)
	reg := registrytest.New(t, registrytest.Config{})
	var image []registrytest.Layer
	var files []registrytest.File
	var flat []string // the files that the mount reads
	dir := filepath.Join(t.TempDir(), "node")
	for i := range layers {
		made := registrytest.Files(uint64(i+1), perLayer, fileSize)
		image = append(image, registrytest.Layer{Tar: registrytest.Tar(t, made...), Level: 1})
		files = append(files, made[1:]...)
		flat = append(flat, filepath.Join(dir, "mounts", "flat", streamID(image[i].Tar).Hex()))
	}
	n, _ := start(t, node.Config{Dir: dir, CacheBytes: bound, CacheFiles: 1000, MemoryBytes: 1 << 20})
	m := mountWith(t, n, node.MountRequest{Image: push(t, reg, "half:v1", image)})

	var group, sampler sync.WaitGroup
	done := make(chan struct{})
	var most int64
	sampler.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			size, _ := allocated(filepath.Join(dir, "cache"))
			most = max(most, size)
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	for reader := range readers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(reader)))
			for _, i := range random.Perm(len(files)) {
				path := filepath.Join(m.Target(), files[i].Name)
				if err := forget(append(slices.Clone(flat), path)...); err != nil {
					t.Error(err)
				}
				got, err := os.ReadFile(path)
				if err != nil || !bytes.Equal(got, files[i].Data) {
					t.Errorf("%s: error %v, %d bytes, or wrong bytes", files[i].Name, err, len(got))
				}
			}
		})
	}
	group.Wait()
	close(done)
	sampler.Wait()
	size, inodes := allocated(filepath.Join(dir, "cache"))
	t.Logf("bound %d, %d on disk at most, %d in the end in %d inodes", bound, most, size, inodes)
	if most > bound*105/100 {
		t.Errorf("the cache takes %d bytes, more than 105 %% of %d", most, bound)
	}
	if size < bound*80/100 {
		t.Errorf("the cache takes %d bytes, less than 80 %% of %d", size, bound)
	}
}

// forget makes the kernel forget what it has in memory of files.
func forget(paths ...string) error {
	var errs []error
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		errs = append(errs, unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED), unix.Close(fd))
	}
	return errors.Join(errs...)
}
