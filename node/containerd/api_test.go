package containerd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/test/containerdtest"
)

func TestMain(m *testing.M) { os.Exit(containerdtest.Main(m.Run)) }

func TestContainerd(t *testing.T) {
	d := containerdtest.Start(t, containerdtest.Config{Plain: true})
	version, err := containerdapi.Version(t.Context(), d.Address)
	if err != nil || !strings.HasPrefix(version, "v2.") {
		t.Errorf("version %q, %v", version, err)
	}
	for name, want := range map[string]bool{"overlayfs": true, "brisk": false} {
		if got, err := containerdapi.HasSnapshotter(t.Context(), d.Address, name); err != nil || got != want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
	// It serves snapshots, but not without being told which.
	if err := containerdapi.CheckSnapshotter(t.Context(), d.Address, false); err == nil {
		t.Error("containerd is a snapshotter")
	}
}

func TestNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	if _, err := containerdapi.Version(t.Context(), path); err == nil {
		t.Error("a version of nobody")
	}
	if _, err := containerdapi.HasSnapshotter(t.Context(), path, "brisk"); err == nil {
		t.Error("snapshotters of nobody")
	}
	if err := containerdapi.CheckSnapshotter(t.Context(), path, false); err == nil {
		t.Error("nobody is a snapshotter")
	}
}
