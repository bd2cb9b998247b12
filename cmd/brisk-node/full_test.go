package main

import (
	"slices"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/torture"
)

// treeOf returns the root filesystem that a container of an image has with a snapshotter.
func treeOf(t *testing.T, d *containerdtest.Daemon, image containerd.Image, snapshotter string) *fstree.Tree {
	t.Helper()
	diffIDs, err := image.RootFS(d.Context())
	if err != nil {
		t.Fatal(err)
	}
	service := d.Client.SnapshotService(snapshotter)
	mounts, err := service.View(d.Context(), "tree", identity.ChainID(diffIDs).String(), containerdtest.KeepSnapshot())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	tree, err := fstree.Take(dir)
	if unmountErr := mount.UnmountAll(dir, 0); unmountErr != nil {
		t.Error(unmountErr)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Remove(d.Context(), "tree"); err != nil {
		t.Error(err)
	}
	return tree
}

// TestFullMode pulls an image in full mode with containerd's overlayfs, which knows nothing of
// it, and lazily: it is the same as its base.
func TestFullMode(t *testing.T) {
	s := newSite(t, "--mode", "lazy")
	client := pushClient(t)
	plain := containerdtest.Start(t, containerdtest.Config{Plain: true})
	plain.Snapshotter = "overlayfs"
	for _, image := range torture.Images() {
		// The others take an overlay of their own to be looked at; see TestFullMountEqualsUnpacked of package node.
		if !slices.Contains([]string{
			"no-entries", "sizes", "names", "sparse", "symlinks", "modes", "owners", "times", "capabilities", "xattrs",
			"header-formats", "hard-links", "opaque", "type-changes", "empty-layers",
		}, image.Name) {
			continue
		}
		var layers []registrytest.Layer
		for _, tar := range image.Layers {
			layers = append(layers, registrytest.Layer{Tar: tar, Level: 1})
		}
		name := image.Name + ":v1"
		s.reg.Push(t, name, registrytest.Image{Layers: layers, Docker: true})
		result, err := convert.Convert(t.Context(), client, s.reg.Ref(t, name), convert.Config{Mode: convert.ModeFull})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		base := plain.Pull(s.reg.Ref(t, name).String())
		want := treeOf(t, plain, base, "overlayfs")
		want.Since = began.Add(-time.Second) // the clock of files is a coarse one
		plain.RemoveImage(base.Name())
		full := plain.Pull(result.Tag)
		if full.Target().Digest == base.Target().Digest {
			t.Error("the image in full mode is its base")
		}
		for _, line := range fstree.Diff(want, treeOf(t, plain, full, "overlayfs")) {
			t.Errorf("%s under overlayfs: %s", image.Name, line)
		}
		lazy := s.Pull(result.Tag)
		for _, l := range result.Layers {
			if _, err := s.Client.ContentStore().Info(s.Context(), digest.Digest(l.FullDigest.String())); !errdefs.IsNotFound(err) {
				t.Errorf("%s: containerd has downloaded layer %s: %v", image.Name, l.FullDigest, err)
			}
		}
		for _, line := range fstree.Diff(want, treeOf(t, s.Daemon, lazy, containerdtest.Snapshotter)) {
			t.Errorf("%s lazily: %s", image.Name, line)
		}
		plain.RemoveImage(full.Name())
		s.RemoveImage(lazy.Name())
	}
}
