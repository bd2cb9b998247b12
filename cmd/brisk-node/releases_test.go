package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/brisk-project/brisk/node/host/containerdconfig"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestReleases pulls lazily, as kubelet does, with each containerd release that is named
// in BRISK_TEST_CONTAINERDS as a PATH is, configured as "brisk-node install" does it.
func TestReleases(t *testing.T) {
	t.Parallel()
	programs := append(filepath.SplitList(os.Getenv("BRISK_TEST_CONTAINERDS")), containerdtest.Program(t, "containerd"))
	for _, program := range programs {
		out, err := exec.CommandContext(t.Context(), program, "--version").Output()
		if err != nil {
			t.Fatal(err)
		}
		version, err := containerdconfig.ParseVersion(string(out))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(version.String(), func(t *testing.T) { pullWith(t, program, version) })
	}
}

func pullWith(t *testing.T, program string, version containerdconfig.Version) {
	t.Helper()
	s := &site{t: t, dir: filepath.Join(t.TempDir(), "node"), reg: registrytest.New(t, registrytest.Config{}), logs: &logs{}}
	s.start(containerdtest.Config{Plain: true, Program: program, Edit: func(path string) {
		at := containerdconfig.Target{
			Name: containerdtest.Snapshotter, Socket: s.socket(), Dir: s.dir, Version: version,
			Main: path, DropIn: filepath.Join(filepath.Dir(path), "conf.d", "zz-brisk.toml"),
		}
		changes, err := at.Plan(containerdconfig.Selected)
		if err != nil {
			t.Fatal(err)
		}
		if err := containerdconfig.Apply(changes); err != nil {
			t.Fatal(err)
		}
	}})
	data, path, sum := files(t, 1, 1<<20)
	plain, plainPath, plainSum := files(t, 2, 1<<10)
	lazyRef, plainRef := s.push("lazy:v1", true, shell(t), data), s.push("plain:v1", false, shell(t), plain)
	conn, ok := s.Client.Conn().(grpc.ClientConnInterface)
	if !ok {
		t.Fatal("the client of containerd has another kind of connection")
	}
	service := cri.NewImageServiceClient(conn)
	for _, ref := range []string{lazyRef, plainRef} {
		if _, err := service.PullImage(s.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
			t.Fatal(err)
		}
		if ref == lazyRef && s.downloaded(shell(t), data) != 0 {
			t.Error("layers of the indexed image were downloaded")
		}
	}
	for _, each := range []struct{ ref, path, sum string }{{lazyRef, path, sum}, {plainRef, plainPath, plainSum}} {
		image, err := s.Client.GetImage(s.Context(), each.ref)
		if err != nil {
			t.Fatal(err)
		}
		s.requireSum("one", image, each.path, each.sum)
		if _, err := service.RemoveImage(s.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: each.ref}}); err != nil {
			t.Fatal(err)
		}
	}
	s.requireEmpty()
}
