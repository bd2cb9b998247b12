package containerdtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/require"
)

// buildTimeout is how long building the programs may take on a slow machine.
const buildTimeout = 20 * time.Minute

// Main is for TestMain: it runs the tests in a mount namespace of their own, calls
// verify to run them and returns the exit code.
func Main(verify func() int) int {
	if code, done := mountns.Rerun(); done {
		return code
	}
	if os.Geteuid() == 0 {
		// Shims have their sockets below /run/containerd, whatever containerd is told.
		if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
			fmt.Fprintln(os.Stderr, "containerdtest: a /run of its own:", err)
			return 1
		}
	}
	return verify()
}

// Programs builds containerd, its shim, ctr and runc once and returns their directory.
func Programs(tb testing.TB) string {
	tb.Helper()
	require.Root(tb)
	dir, err := built()
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// built returns a directory that the programs are in, built now if they are not there.
func built() (string, error) {
	_, self, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("finding the sources of the tests: no caller")
	}
	tools := filepath.Join(filepath.Dir(self), "tools")
	var sum []byte
	for _, name := range []string{"go.mod", "go.sum", "build.sh"} {
		content, err := os.ReadFile(filepath.Join(tools, name))
		if err != nil {
			return "", fmt.Errorf("finding the sources of containerd: %w", err)
		}
		each := sha256.Sum256(content)
		sum = append(sum, each[:]...)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a place for containerd: %w", err)
	}
	key := sha256.Sum256(sum)
	dir := filepath.Join(cache, "brisk", "containerd-"+hex.EncodeToString(key[:8]))
	if err := os.MkdirAll(dir, 0o750); err != nil { //nolint:gosec // below the cache directory of the user
		return "", fmt.Errorf("making a place for containerd: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // as above
	if err != nil {
		return "", fmt.Errorf("locking the place for containerd: %w", err)
	}
	defer lock.Close() //nolint:errcheck // it is empty
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("locking the place for containerd: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "runc")); err == nil { //nolint:gosec // as above
		return dir, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout) //nolint:forbidigo // for all tests, not one
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(tools, "build.sh"), dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building containerd: %w\n%s", err, out)
	}
	return dir, nil
}
