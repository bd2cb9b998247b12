// Package chroot runs one program inside a root filesystem, as a container runtime
// does: in mount, PID, IPC and UTS namespaces of its own, and a network namespace if
// wanted, with the devices, pseudo filesystems and capabilities that containers
// usually have. There is no seccomp filter, no cgroup and no user namespace: it is for
// images that their user would also run as a container, not for hostile ones.
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
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// InitCommand is the name of the hidden subcommand that must call [Init].
const InitCommand = "container-init"

// stopDelay is how long a program may take to end after its context has.
const stopDelay = 5 * time.Second

// Spec is the program to run. It is passed to the new namespaces as JSON.
type Spec struct {
	// Root is the directory that becomes the program's root. It must be writable
	// where mount points for /proc, /dev and /sys are missing.
	Root string
	// Args is the program, looked up on the PATH of Env when it has no slash, and
	// its arguments.
	Args []string
	// Env is the whole environment of the program.
	Env []string
	// Dir is the working directory inside the root, made if it is missing; empty
	// means "/".
	Dir string
	// User is who the program runs as, in the form of an image configuration: a user,
	// or a user and a group separated by a colon, each by name or number. Empty is root.
	User string
	// Isolated gives the program a network with nothing but loopback in place of the
	// caller's.
	Isolated bool
	// Temporary gives the program an empty /tmp in memory.
	Temporary bool
	// Resolver writes the caller's /etc/resolv.conf and /etc/hosts into the root.
	Resolver bool
}

// Container is a program that runs.
type Container struct {
	cmd  *exec.Cmd
	name string
}

// Run starts the program and waits for it. Its output goes to stdout and stderr
// as it is written. The program and everything it started is killed when ctx
// ends. The error of a program that failed wraps an [*exec.ExitError].
func Run(ctx context.Context, spec Spec, stdout, stderr io.Writer) error {
	c, err := Start(ctx, spec, stdout, stderr)
	if err != nil {
		return err
	}
	return c.Wait()
}

// Start starts the program as [Run] does. The caller must call [Container.Wait].
func Start(ctx context.Context, spec Spec, stdout, stderr io.Writer) (*Container, error) {
	if len(spec.Args) == 0 {
		return nil, errors.New("starting container: no program given and the image names none")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting container: finding this program: %w", err)
	}
	encoded, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("starting container: encoding its description: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, InitCommand, string(encoded))
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = stopDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		// The first process of a PID namespace takes all others with it.
		Pdeathsig: syscall.SIGKILL,
		// Signals of the terminal are for the caller, who then ends the program.
		Setsid: true,
	}
	if spec.Isolated {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNET
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("running %q in a container: %w", spec.Args[0], err)
	}
	return &Container{cmd: cmd, name: spec.Args[0]}, nil
}

// PID returns the process ID of the program, as the caller sees it.
func (c *Container) PID() int { return c.cmd.Process.Pid }

// Wait waits until the program and everything it started has ended.
func (c *Container) Wait() error {
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("running %q in a container: %w", c.name, err)
	}
	return nil
}
