package install_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/brisk-project/brisk/node/host/containerdconfig"
	"github.com/brisk-project/brisk/node/host/install"
	"github.com/brisk-project/brisk/test/containerdtest"
)

// TestAdopt installs on nodes that have images already: everything goes on, and nothing is
// left once the images are removed.
func TestAdopt(t *testing.T) { adoptAll(t, containerdtest.Program(t, "containerd"), true) }

// TestReleases does that with each containerd release that is named in
// BRISK_TEST_CONTAINERDS as a PATH is.
func TestReleases(t *testing.T) {
	programs := filepath.SplitList(os.Getenv("BRISK_TEST_CONTAINERDS"))
	if len(programs) == 0 {
		t.Skip("no releases are named")
	}
	programs = append(programs, containerdtest.Program(t, "containerd"))
	for _, program := range programs {
		out, err := exec.CommandContext(t.Context(), program, "--version").Output()
		if err != nil {
			t.Fatal(err)
		}
		version, err := containerdconfig.ParseVersion(string(out))
		if err != nil {
			t.Fatal(err)
		}
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			adoptAll(t, program, true, false)
		})
	}
}

func adoptAll(t *testing.T, program string, discards ...bool) {
	t.Helper()
	for _, snapshotter := range []string{"overlayfs", "native"} {
		for _, discard := range discards {
			t.Run(fmt.Sprintf("%s-discards-%t", snapshotter, discard), func(t *testing.T) {
				adoptWith(t, liveConfig{program: program, snapshotter: snapshotter, discard: discard})
			})
		}
	}
}

func adoptWith(t *testing.T, cfg liveConfig) {
	t.Helper()
	s := newLiveSite(t, cfg)
	running, stopped := s.prepare()
	if cfg.discard {
		containerdtest.Await(t, "containerd discarding layers", containerdtest.Timeout, func() bool { return s.discarded("many") && s.discarded("pause") })
	}
	pinned, before := s.pinned("pause"), s.snapshots(cfg.snapshotter)
	s.registryDown()
	s.serve()
	s.install()
	if !strings.Contains(s.out.String(), "adopted 5 of 5 images") {
		t.Errorf("nothing of it in\n%s", s.out)
	}
	if former, ours := s.Usage(cfg.snapshotter), s.Usage(containerdtest.Snapshotter); former != ours || ours.Size == 0 {
		t.Errorf("images take %+v, and %+v with %s", ours, former, cfg.snapshotter)
	}
	s.requireFiles(running, 2)
	s.requireAllRun(containerdtest.Snapshotter)
	if got := s.pinned("pause"); got != pinned {
		t.Errorf("that the sandbox image is pinned has become %t", got)
	}
	s.uninstall(install.UninstallOptions{})
	if got := s.snapshots(cfg.snapshotter); got != before {
		t.Errorf("%d snapshots of %s instead of %d", got, cfg.snapshotter, before)
	}
	s.requireFiles(running, 2)
	s.requireAllRun(cfg.snapshotter)
	s.serve()
	s.install()
	s.loseDirectory()
	s.install() // adopts them again
	s.requireAllRun(containerdtest.Snapshotter)
	s.remove(running)
	s.remove(stopped)
	for name := range s.refs {
		s.RemoveImage(s.refs[name])
	}
	for _, snapshotter := range []string{cfg.snapshotter, containerdtest.Snapshotter} {
		if left := s.snapshots(snapshotter); left > 0 {
			t.Errorf("%d snapshots of %s are left", left, snapshotter)
		}
	}
	s.uninstall(install.UninstallOptions{Purge: true})
}

// loseDirectory starts the agent anew with nothing of what it had.
func (s *liveSite) loseDirectory() {
	s.t.Helper()
	s.stopAgent()
	if err := os.RemoveAll(filepath.Join(s.dir, "snapshotter")); err != nil {
		s.t.Fatal(err)
	}
	s.serve()
}

// TestAdoptWithoutSystemd installs where somebody else restarts containerd: as long as
// images are not adopted, containers are made as before.
func TestAdoptWithoutSystemd(t *testing.T) {
	s := newLiveSite(t, liveConfig{snapshotter: "overlayfs", discard: true})
	s.layers = map[string]int{"pause": 1, "app": 2}
	s.pushAll()
	s.registryDown()
	s.serve()
	s.cfg.Systemd = false
	restart := func() {
		t.Helper()
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.awaitCRI()
	}
	s.install()
	if !strings.Contains(s.out.String(), "run this command again") {
		t.Errorf("it does not say what is left to do:\n%s", s.out)
	}
	restart()
	s.requireAllRun("overlayfs")
	s.install()
	restart()
	s.requireAllRun(containerdtest.Snapshotter)
	s.cfg.Systemd = true
	s.uninstall(install.UninstallOptions{})
}

// pinned reports whether kubelet is told never to remove an image.
func (s *liveSite) pinned(name string) bool {
	s.t.Helper()
	status, err := s.images.ImageStatus(s.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: s.refs[name]}})
	if err != nil || status.GetImage() == nil {
		s.t.Fatalf("image %s is not present: %v", name, err)
	}
	return status.GetImage().GetPinned()
}
