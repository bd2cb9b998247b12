// Package chroot runs one program inside a root filesystem, in mount, PID, IPC
// and UTS namespaces of its own. It is what the demo needs to run a real program
// from a mounted image without a container runtime; it isolates names, it does
// not confine: the program runs as the caller's user with the caller's network.
//
// The namespaces are made by the kernel when the calling binary starts itself
// again with [InitCommand] as its first argument; the binary must route that
// command to [Init].
package chroot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// InitCommand is the name of the hidden subcommand that must call [Init].
const InitCommand = "container-init"

// stopDelay is how long a program may take to end after its context has.
const stopDelay = 5 * time.Second

// Spec says what to run. It travels to the new namespaces as JSON.
type Spec struct {
	// Root is the directory that becomes the program's root. It must be writable
	// where mount points for /proc, /dev and /tmp are missing.
	Root string
	// Args is the program, looked up on the PATH of Env when it has no slash, and
	// its arguments.
	Args []string
	// Env is the whole environment of the program.
	Env []string
	// Dir is the working directory inside the root; empty means "/".
	Dir string
}

// Run starts the program and waits for it. Its output goes to stdout and stderr
// as it is written. The program and everything it started is killed when ctx
// ends. The error of a program that failed wraps an [*exec.ExitError].
func Run(ctx context.Context, spec Spec, stdout, stderr io.Writer) error {
	if len(spec.Args) == 0 {
		return errors.New("starting container: no program given and the image names none")
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("starting container: finding this program: %w", err)
	}
	encoded, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("starting container: encoding its description: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, InitCommand, string(encoded))
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = stopDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		// The first process of a PID namespace takes all others with it.
		Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %q in a container: %w", spec.Args[0], err)
	}
	return nil
}

// Init finishes the set-up inside the new namespaces and becomes the program. It
// returns only on error.
func Init(encoded string) error {
	var spec Spec
	if err := json.Unmarshal([]byte(encoded), &spec); err != nil {
		return fmt.Errorf("decoding container description: %w", err)
	}
	// Nothing mounted here may show outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := mountAll(spec.Root); err != nil {
		return err
	}
	if err := unix.Chroot(spec.Root); err != nil {
		return fmt.Errorf("changing root to %s: %w", spec.Root, err)
	}
	if err := os.Chdir(filepath.Join("/", spec.Dir)); err != nil {
		return fmt.Errorf("entering working directory: %w", err)
	}
	if err := unix.Sethostname([]byte("brisk")); err != nil {
		return fmt.Errorf("setting host name: %w", err)
	}
	os.Clearenv()
	for _, entry := range spec.Env {
		name, value, _ := strings.Cut(entry, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("setting environment variable %q: %w", name, err)
		}
	}
	program, err := exec.LookPath(spec.Args[0])
	if err != nil {
		return fmt.Errorf("finding program in the image: %w", err)
	}
	if err := unix.Exec(program, spec.Args, spec.Env); err != nil {
		return fmt.Errorf("executing %s: %w", program, err)
	}
	return nil
}

// mountAll gives the root the pseudo filesystems programs expect.
func mountAll(root string) error {
	for _, m := range []struct {
		source, target, fstype string
		flags                  uintptr
	}{
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC},
		{"/sys", "sys", "", unix.MS_BIND | unix.MS_REC},
		{"tmpfs", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		target := filepath.Join(root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil { //nolint:gosec // a container's /proc is for everybody
			return fmt.Errorf("making mount point /%s in the image: %w", m.target, err)
		}
		if err := unix.Mount(m.source, target, m.fstype, m.flags, ""); err != nil {
			return fmt.Errorf("mounting /%s in the container: %w", m.target, err)
		}
	}
	return nil
}
