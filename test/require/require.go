// Package require states what a test needs of the machine it runs on. Where the
// need is not met the test is skipped with the reason, or fails when the
// environment variable BRISK_REQUIRE_ROOT is set, as it is in CI: there a test
// that silently does not run would hide a broken one.
package require

import (
	"os"
	"os/exec"
	"testing"
)

// EnvStrict is the environment variable that turns every skip into a failure.
const EnvStrict = "BRISK_REQUIRE_ROOT"

// Root needs the test to run as root.
func Root(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		missing(tb, "needs root: mounts, device nodes and ownership")
	}
}

// FUSE needs root and the FUSE device.
func FUSE(tb testing.TB) {
	tb.Helper()
	Root(tb)
	if _, err := os.Stat("/dev/fuse"); err != nil {
		missing(tb, "needs FUSE: "+err.Error())
	}
}

// NetNS needs root and the ip command to make network namespaces.
func NetNS(tb testing.TB) {
	tb.Helper()
	Root(tb)
	Tool(tb, "ip")
}

// Tool needs a program on the PATH and returns its path.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(tb, "needs the program "+name+"; \"make deps\" installs it")
	}
	return path
}

func missing(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv(EnvStrict) != "" {
		tb.Fatalf("%s (and %s is set)", reason, EnvStrict)
	}
	tb.Skip(reason)
}
