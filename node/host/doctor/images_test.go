package doctor_test

import (
	"strings"
	"testing"

	"github.com/brisk-project/brisk/node/host/doctor"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestImagesToAdopt checks that it says what installing adopts.
func TestImagesToAdopt(t *testing.T) {
	d := containerdtest.Start(t, containerdtest.Config{Plain: true})
	d.Snapshotter = "overlayfs"
	reg := registrytest.New(t, registrytest.Config{})
	layer := func(name string) registrytest.Layer {
		return registrytest.Layer{Tar: registrytest.Tar(t, registrytest.File{Name: name})}
	}
	reg.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{layer("a"), layer("b")}})
	reg.Push(t, "other:v1", registrytest.Image{Layers: []registrytest.Layer{layer("a"), layer("c")}})
	d.Pull(reg.Ref(t, "app:v1").String())
	d.Pull(reg.Ref(t, "other:v1").String())
	cfg := config(t, t.TempDir())
	cfg.Node.Containerd.Address, cfg.Target.Main = d.Address, d.ConfigPath()
	cfg.Containerd = containerdtest.Program(t, "containerd")
	const want = "brisk-node install adopts 2 images that overlayfs has unpacked, in 3 snapshots"
	said := false
	for _, f := range doctor.Run(t.Context(), cfg) {
		if f.Check == "images" {
			t.Log(f.Level, f.Found)
			said = said || f.Level == doctor.OK && strings.HasPrefix(f.Found, want)
		}
	}
	if !said {
		t.Errorf("it does not say %q", want)
	}
}
