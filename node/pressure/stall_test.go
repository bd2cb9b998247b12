package pressure_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/brisk-project/brisk/node/pressure"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/require"
)

// TestStalls waits for events of the kernel. They are those of the processors, which are the same
// as those of memory but for that they are easily had: more programs run than there are processors.
func TestStalls(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pressure"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/pressure/cpu", filepath.Join(dir, "pressure/memory")); err != nil {
		t.Fatal(err)
	}
	_, err := os.Stat(filepath.Join(dir, "pressure/memory"))
	require.Working(t, "pressure stall information of the kernel", err)
	calls, stop := watch(t, pressure.Config{Proc: dir})
	var hogs []*exec.Cmd
	for range 2 * runtime.NumCPU() {
		hog := exec.CommandContext(t.Context(), "/bin/sh", "-c", "while :; do :; done")
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		hogs = append(hogs, hog)
	}
	defer func() {
		for _, hog := range hogs {
			if err := hog.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = hog.Wait() //nolint:errcheck // it was killed
		}
	}()
	containerdtest.Await(t, "the kernel telling", 30*time.Second, func() bool { return calls.Load() > 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
}
