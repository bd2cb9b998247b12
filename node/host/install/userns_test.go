package install_test

import (
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/brisk-project/brisk/node/host/install"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestAdoptUserNamespace runs containers whose root is somebody else on the machine: on an
// adopted image, and on one with a layer of our own on top. Their files belong to that root.
// Then the image goes while a container still runs.
func TestAdoptUserNamespace(t *testing.T) {
	s := newLiveSite(t, liveConfig{snapshotter: "overlayfs", discard: true})
	base := s.push("base", 3)
	s.pull("base")
	s.serve()
	s.install()
	upper := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.File{Name: "upper", Data: []byte("upper\n")})}
	upper.Blob = registrytest.Compress(t, upper)
	s.reg.Push(t, "upper:v1", registrytest.Image{Layers: append(base.Layers, upper)})
	s.refs["upper"] = s.reg.Ref(t, "upper:v1").String()
	s.pull("upper")
	ids := specs.LinuxIDMapping{ContainerID: 0, HostID: 100000, Size: 65536}
	mapping := fmt.Sprintf("%d:%d:%d", ids.ContainerID, ids.HostID, ids.Size)
	labels := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: mapping, snapshots.LabelSnapshotGIDMapping: mapping})
	for _, name := range []string{"base", "upper"} {
		image, err := s.Client.GetImage(s.Context(), s.refs[name])
		if err != nil {
			t.Fatal(err)
		}
		const script = "/bin/busybox stat -c %u:%g / /bin/busybox /layers/2 /last && echo new >/layers/new && /bin/busybox sleep 1000"
		c, err := s.CreateOn(name, containerdtest.Base{Image: image, Options: []snapshots.Opt{labels}},
			[]oci.SpecOpts{oci.WithUserNamespace([]specs.LinuxIDMapping{ids}, []specs.LinuxIDMapping{ids})}, "/bin/busybox", "sh", "-c", script)
		if err != nil {
			t.Fatal(err)
		}
		c.Start()
		containerdtest.Await(t, "the owners of files", containerdtest.Timeout, func() bool { return c.Output() == "0:0\n0:0\n0:0\n0:0\n" })
		if name == "upper" {
			s.RemoveImage(s.refs["base"])
			s.RemoveImage(s.refs["upper"])
		}
		if code, out := c.Exec("reads", "/bin/busybox", "cat", "/layers/0"); code != 0 || out != "base" {
			t.Errorf("without its image the container reads %q, code %d", out, code)
		}
		c.Remove()
	}
	for _, snapshotter := range []string{"overlayfs", containerdtest.Snapshotter} {
		containerdtest.Await(t, "the snapshots of "+snapshotter+" going", containerdtest.Timeout, func() bool { return s.snapshots(snapshotter) == 0 })
	}
	s.uninstall(install.UninstallOptions{Purge: true})
}
