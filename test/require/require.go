// Package require states what a test needs of the machine it runs on. Where the
// need is not met the test is skipped with the reason, or fails when the
// environment variable BRISK_REQUIRE_ROOT is set, as it is in CI: there a test
// that silently does not run would hide a broken one.
package require

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
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

// Version needs a program on the PATH whose option -V tells that it is of a version
// or newer, and returns its path.
func Version(tb testing.TB, name string, major, minor int) string {
	tb.Helper()
	path := Tool(tb, name)
	out, err := exec.CommandContext(tb.Context(), path, "-V").CombinedOutput()
	if err != nil {
		tb.Fatalf("asking %s for its version: %v\n%s", path, err, out)
	}
	var found [2]int
	if _, err := fmt.Sscanf(regexp.MustCompile(`\d+\.\d+`).FindString(string(out)), "%d.%d", &found[0], &found[1]); err != nil {
		tb.Fatalf("no version in what %s -V prints: %s", path, out)
	}
	if slices.Compare(found[:], []int{major, minor}) < 0 {
		missing(tb, fmt.Sprintf("needs %s %d.%d or newer, %s is %d.%d", name, major, minor, path, found[0], found[1]))
	}
	return path
}

// Working needs something of the machine that is there if err is nil.
func Working(tb testing.TB, what string, err error) {
	tb.Helper()
	if err != nil {
		missing(tb, fmt.Sprintf("needs %s: %v", what, err))
	}
}

func missing(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv(EnvStrict) != "" {
		tb.Fatalf("%s (and %s is set)", reason, EnvStrict)
	}
	tb.Skip(reason)
}
