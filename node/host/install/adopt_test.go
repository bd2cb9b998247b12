package install_test

import (
	"strings"
	"testing"

	"github.com/brisk-project/brisk/node/host/install"
	"github.com/brisk-project/brisk/test/containerdtest"
)

// TestAdopt installs on a node whose containerd discards what it has unpacked: everything
// goes on, and nothing is left once the images are removed.
func TestAdopt(t *testing.T) {
	s := newLiveSite(t, liveConfig{snapshotter: "overlayfs", discard: true})
	running, stopped := s.prepare()
	containerdtest.Await(t, "containerd discarding layers", containerdtest.Patience, func() bool { return s.discarded("many") && s.discarded("pause") })
	s.registryDown()
	s.serve()
	s.install()
	if !strings.Contains(s.out.String(), "adopted 5 of 5 images") {
		t.Errorf("nothing of it in\n%s", s.out)
	}
	s.requireFiles(running, 2)
	s.requireAllRun(containerdtest.Snapshotter)
	s.remove(running)
	s.remove(stopped)
	for name := range s.refs {
		s.RemoveImage(s.refs[name])
	}
	for _, snapshotter := range []string{"overlayfs", containerdtest.Snapshotter} {
		if left := s.snapshots(snapshotter); left > 0 {
			t.Errorf("%d snapshots of %s are left", left, snapshotter)
		}
	}
	s.uninstall(install.Removal{})
}
