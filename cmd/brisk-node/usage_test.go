package main

import (
	"io/fs"
	"path/filepath"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/brisk-project/brisk/test/containerdtest"
)

// allocated returns what directories of the node take on disk, as du tells it.
func (s *site) allocated(dirs ...string) (size int64) {
	s.t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(s.dir, dir), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			var st syscall.Stat_t
			if err := syscall.Lstat(path, &st); err != nil {
				return err
			}
			size += st.Blocks * 512
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return size
}

// TestUsage compares what containerd and kubelet are told of an image with what it takes on
// disk, from when it is pulled until it is removed.
func TestUsage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data, path, sum := files(t, 1, 8<<20)
	ref := s.push("app:v1", true, shell(t), data)
	release := s.holdBlocks()
	image := s.Pull(ref)
	if pulled := s.Usage(containerdtest.Snapshotter); pulled.Size == 0 || pulled.Size > 1<<20 {
		t.Errorf("before anything was loaded the snapshots take %+v", pulled)
	}
	release()
	s.requireSum("one", image, path, sum)
	s.prepare("two", ref)
	s.awaitComplete(1)
	told, taken := s.Usage(containerdtest.Snapshotter), s.allocated("cache/layers", "objects", "mounts/rootfs")
	t.Logf("containerd is told of %+v, the disk of %d bytes", told, taken)
	if told.Size < 8<<20 || told.Size > taken || told.Size < taken*9/10 {
		t.Errorf("containerd is told of %d bytes, the disk of %d", told.Size, taken)
	}
	if told.Inodes < 4 || told.Inodes > 16 {
		t.Errorf("containerd is told of %d inodes", told.Inodes)
	}

	// Kubelet takes what is free, which is what it collects garbage by, from the directory
	// that it is told of.
	conn, ok := s.Client.Conn().(grpc.ClientConnInterface)
	if !ok {
		t.Fatal("the client of containerd has another kind of connection")
	}
	service := cri.NewImageServiceClient(conn)
	containerdtest.Await(t, "statistics of images", containerdtest.Timeout, func() bool {
		stats, err := service.ImageFsInfo(s.Context(), &cri.ImageFsInfoRequest{})
		if err != nil || len(stats.GetImageFilesystems()) != 1 {
			t.Fatalf("image filesystems %v, %v", stats, err)
		}
		info := stats.GetImageFilesystems()[0]
		if info.GetFsId().GetMountpoint() != s.dir {
			t.Fatalf("images are said to be in %s", info.GetFsId().GetMountpoint())
		}
		return info.GetUsedBytes().GetValue() > 0 && info.GetInodesUsed().GetValue() > 0
	})
	s.discard("two")
	s.RemoveImage(ref)
	s.requireEmpty()
}
