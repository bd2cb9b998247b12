package main

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"

	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// The command ends with an error if the index that it has mounted turns out to be false,
// and does not mount it again.
func TestMountOfFalseIndex(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	tarOf := func(name string) registrytest.Layer {
		return registrytest.Layer{Level: 1, Tar: registrytest.Tar(t, registrytest.File{Name: name, Data: fileData(1)})}
	}
	layer := tarOf("app")
	pushed := reg.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{layer}})
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	truth, lie := indextest.Build(t, registrytest.Compress(t, layer)), indextest.Build(t, tarOf("bin").Tar)
	indextest.Push(t, client, pushed, indextest.WithEntries(t, truth.Encoded, lie.Encoded))

	s := newSite(t)
	cmd := foreground(t, "--dir", s.node, pushed.String(), s.target(t, "root"))
	p2ptest.Await(t, "the index to be found false", func() bool {
		status, err := node.Client{Dir: s.node}.Status(t.Context())
		return err == nil && len(status.Mounts) == 1 && status.Mounts[0].FalseIndex != ""
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, failed := errors.AsType[*exec.ExitError](cmd.Wait()); !failed {
		t.Error("the command succeeds")
	}
	again := finish(t, program(t, "mount", "--detach", "--dir", s.node, pushed.String(), s.target(t, "root")))
	if again.code == 0 {
		run(t, "umount", "--dir", s.node, s.target(t, "root"))
		t.Fatal("the image is mounted again")
	}
	requireOutput(t, again.stderr, "layer index is false", "bin", "app")
}
