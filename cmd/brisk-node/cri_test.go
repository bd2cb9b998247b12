package main

import (
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/brisk-project/brisk/test/containerdtest"
)

// cri returns what kubelet asks containerd for images with.
func (s *site) cri() cri.ImageServiceClient {
	s.t.Helper()
	conn, ok := s.Client.Conn().(grpc.ClientConnInterface)
	if !ok {
		s.t.Fatal("the client of containerd has another kind of connection")
	}
	return cri.NewImageServiceClient(conn)
}

// criPull pulls as kubelet does, and returns what containerd calls the image.
func (s *site) criPull(ref string) (string, error) {
	s.t.Helper()
	pulled, err := s.cri().PullImage(s.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}})
	return pulled.GetImageRef(), err
}

// TestCRI pulls as kubelet does, in both ways that containerd has for it.
func TestCRI(t *testing.T) {
	t.Parallel()
	for _, transfer := range []bool{false, true} {
		t.Run(fmt.Sprintf("transfer=%v", transfer), func(t *testing.T) {
			s := newSiteWith(t, containerdtest.Config{Transfer: transfer})
			data, path, sum := files(t, 1, 1<<20)
			ref := s.push("app:v1", true, shell(t), data)
			service := s.cri()
			pulled, err := s.criPull(ref)
			if err != nil {
				t.Fatal(err)
			}
			if s.downloaded(shell(t), data) != 0 {
				t.Error("layers were downloaded")
			}
			image, err := s.Client.GetImage(s.Context(), ref)
			if err != nil {
				t.Fatal(err)
			}
			s.requireSum("one", image, path, sum)
			stats, err := service.ImageFsInfo(s.Context(), &cri.ImageFsInfoRequest{})
			if err != nil || len(stats.GetImageFilesystems()) != 1 ||
				stats.GetImageFilesystems()[0].GetFsId().GetMountpoint() != s.dir {
				t.Errorf("image filesystems %v, %v", stats, err)
			}
			_, err = service.RemoveImage(s.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: pulled}})
			if err != nil {
				t.Fatal(err)
			}
			s.requireEmpty()
		})
	}
}

// TestUserNamespace runs a container whose root is somebody else on the machine.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data, path, sum := files(t, 1, 1<<20)
	image := s.Pull(s.push("app:v1", true, shell(t), data))
	ids := specs.LinuxIDMapping{ContainerID: 0, HostID: 100000, Size: 65536}
	mapping := fmt.Sprintf("%d:%d:%d", ids.ContainerID, ids.HostID, ids.Size)
	mapped := containerdtest.Base{Image: image, Options: []snapshots.Opt{snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotUIDMapping: mapping, snapshots.LabelSnapshotGIDMapping: mapping,
	})}}
	c, err := s.CreateOn("one", mapped, []oci.SpecOpts{oci.WithUserNamespace([]specs.LinuxIDMapping{ids}, []specs.LinuxIDMapping{ids})},
		"/bin/sh", "-c", "cat /proc/self/uid_map && stat -c %u:%g / /bin/busybox "+path+" && echo new > /new && sha256sum "+path)
	if err != nil {
		t.Fatal(err)
	}
	c.Start()
	want := fmt.Sprintf("%10d %10d %10d\n0:0\n0:0\n0:0\n%s", 0, ids.HostID, ids.Size, sum)
	if code, out := c.Wait(); code != 0 || out != want {
		t.Errorf("code %d, %q instead of %q", code, out, want)
	}
	c.Remove()
}
