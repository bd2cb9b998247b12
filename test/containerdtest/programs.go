package containerdtest

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/programs"
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
	dir, err := Build(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// Build is Programs for those who run no test yet.
func Build(ctx context.Context) (string, error) {
	return programs.Set{
		Name: "containerd", Tools: "tools", Sources: []string{"go.mod", "go.sum"}, Last: "runc", Timeout: buildTimeout,
	}.Dir(ctx)
}
