package install_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/node/host/install"
)

// TestIdleMountsDoNotHinder uninstalls while an image is mounted for the next container.
func TestIdleMountsDoNotHinder(t *testing.T) {
	s := newSite(t)
	s.serve()
	s.install()
	ref := s.push()
	s.sleeper(s.Pull(ref)).Remove()
	if s.mountsBelow() == 0 {
		t.Fatal("the image is not mounted any more")
	}
	s.uninstall(install.UninstallOptions{Purge: true})
	if n := s.mountsBelow(); n != 0 {
		t.Errorf("%d mounts are left", n)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "cache")); err == nil {
		t.Error("the cache is left")
	}
	s.requireOverlay(ref)
}

// mountsBelow returns how much is mounted below the directory of the agent.
func (s *site) mountsBelow() (n int) {
	s.t.Helper()
	all, err := kernel.Mounts()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range all {
		if strings.HasPrefix(m.Point, s.dir+"/") {
			n++
		}
	}
	return n
}
