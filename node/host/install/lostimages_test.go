package install_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/node/host/install"
	"github.com/brisk-project/brisk/test/containerdtest"
)

// TestLostImages checks that nothing is changed on a node where an image would be lost: one
// of a snapshotter that mounts something where its directories are, as lazy ones do.
func TestLostImages(t *testing.T) {
	s := newLiveSite(t, liveConfig{snapshotter: "overlayfs", discard: true})
	s.push("foreign", 1)
	s.pull("foreign")
	containerdtest.Await(t, "containerd discarding layers", containerdtest.Timeout, func() bool { return s.discarded("foreign") })
	dir := s.directory("overlayfs")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.serve()
	err := install.New(s.cfg).Install(t.Context())
	lost, ok := errors.AsType[*install.LostError](err)
	if !ok || len(lost.Images) != 1 || !strings.Contains(err.Error(), s.refs["foreign"]) {
		t.Fatalf("an image is lost, and the error is %v", err)
	}
	s.requireAsBefore()
	if len(s.calls) > 0 {
		t.Errorf("it called %q", s.calls)
	}
	s.cfg.SkipLost = true
	s.install()
	s.RemoveImage(s.refs["foreign"])
	s.site.uninstall(install.UninstallOptions{})
}

// directory returns the directory of the only snapshot of a snapshotter.
func (s *liveSite) directory(snapshotter string) string {
	s.t.Helper()
	var name string
	service := s.Client.SnapshotService(snapshotter)
	err := service.Walk(s.Context(), func(_ context.Context, info snapshots.Info) error {
		name = info.Name
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	var mounts []mount.Mount
	if mounts, err = service.View(s.Context(), "look", name); err != nil {
		s.t.Fatal(err)
	}
	if err := service.Remove(s.Context(), "look"); err != nil {
		s.t.Fatal(err)
	}
	if len(mounts) != 1 || !filepath.IsAbs(mounts[0].Source) {
		s.t.Fatalf("mounts %v", mounts)
	}
	return mounts[0].Source
}
