package rollout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// searchPath is where programs of the machine are.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Machine reaches the machine as one of its processes sees it.
type Machine struct {
	// PID is that process; 1 from a pod that shares the process numbers of its machine.
	PID int
}

func (m Machine) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(m.PID), name)
}

// path returns where a path of the machine is for this process.
func (m Machine) path(path string) string { return filepath.Join(m.proc("root"), path) }

// Write makes a file hold something, all at once, and says whether it did not before.
func (m Machine) Write(path string, content []byte, mode fs.FileMode) (changed bool, err error) {
	path = m.path(path)
	if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, content) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // programs are there for everybody
		return false, fmt.Errorf("making a directory: %w", err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".brisk-*")
	if err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, removeIfThere(file.Name())) }()
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return false, fmt.Errorf("writing %s: %w", path, err)
	}
	return true, nil
}

// Read returns what a file holds.
func (m Machine) Read(path string) ([]byte, error) { return os.ReadFile(m.path(path)) }

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing what was begun: %w", err)
	}
	return nil
}

// Run runs a program of the machine, given by its path, as a process that sees the mounts
// of the machine. What it writes goes to out.
func (m Machine) Run(ctx context.Context, out io.Writer, path string, args ...string) error {
	if err := <-onThread(func() error { return m.run(ctx, out, path, args) }); err != nil {
		return fmt.Errorf("running %s on the machine: %w", path, err)
	}
	return nil
}

// onThread calls do on a thread that ends afterwards. That is never the first thread of the
// process: it does not end, and its mounts are what others take for those of the process, such
// as who starts the readiness probe of this container.
func onThread(do func() error) <-chan error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// As long as it waits here, the other goroutine is on another thread.
			ended <- <-onThread(do)
			runtime.UnlockOSThread()
			return
		}
		ended <- do()
	}()
	return ended
}

func (m Machine) run(ctx context.Context, out io.Writer, path string, args []string) error {
	mounts, err := os.Open(m.proc("ns/mnt"))
	if err != nil {
		return err
	}
	defer mounts.Close() //nolint:errcheck // read only
	// A thread can change to other mounts once it has its own root and working directory.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leaving the root directory of this process: %w", err)
	}
	if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("entering the mounts of the machine: %w", err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + searchPath, "HOME=/root"}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd.Run()
}
