// Package mountns gives the tests of a package a mount namespace of their own.
//
// A namespace that another process makes is a copy of that of its parent, mounts and
// all. Tests that mount something would keep alive what the tests of another package
// unmount, and the other way round; in namespaces of their own they do not meet.
package mountns

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// envInside is set in the process that runs in the new namespace.
const envInside = "BRISK_TEST_MOUNT_NAMESPACE"

// Rerun runs this test binary again in a new mount namespace, with its arguments, and
// returns its exit code. It returns done false where the tests are to run right
// here: in that process, and without root.
func Rerun() (code int, done bool) {
	if os.Geteuid() != 0 {
		return 0, false
	}
	if os.Getenv(envInside) != "" {
		if err := forget(); err != nil {
			return fail(err), true
		}
		return 0, false
	}
	// The child ends by itself or with this process; nothing else may stop it.
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...) //nolint:forbidigo,gosec // before there is any test; this program with its own arguments
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return fail(err), true
	}
	return cmd.ProcessState.ExitCode(), true
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "mountns:", err)
	return 1
}

// forget takes the mounts of tests of other packages out of the copy.
func forget() error {
	mounts, err := kernel.Mounts()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if strings.HasPrefix(m.Point, os.TempDir()+"/") {
			if err := kernel.Unmount(context.Background(), m.Point, true); err != nil { //nolint:forbidigo // before there is any test
				return err
			}
		}
	}
	return nil
}
