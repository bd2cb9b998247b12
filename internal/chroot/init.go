package chroot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Init finishes the set-up inside the new namespaces and becomes the program. It
// returns only on error.
func Init(encoded string) error {
	// What is set for one thread has to be set for the one that becomes the program.
	runtime.LockOSThread()
	var spec Spec
	if err := json.Unmarshal([]byte(encoded), &spec); err != nil {
		return fmt.Errorf("decoding container description: %w", err)
	}
	files, err := resolverFiles(spec.Resolver)
	if err != nil {
		return err
	}
	if err := enterRoot(spec.Root); err != nil {
		return err
	}
	// From here on no path, and no symbolic link of the image, leads out of the root.
	if err := mountAll(spec.Temporary); err != nil {
		return err
	}
	if err := writeFiles(files); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("brisk")); err != nil {
		return fmt.Errorf("setting host name: %w", err)
	}
	if spec.Isolated {
		if err := startLoopback(); err != nil {
			return err
		}
	}
	dir := filepath.Join("/", spec.Dir)
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as container runtimes do
		return fmt.Errorf("making working directory: %w", err)
	}
	if err := os.Chdir(dir); err != nil {
		return fmt.Errorf("entering working directory: %w", err)
	}
	return become(spec)
}

// become runs the program in place of this one.
func become(spec Spec) error {
	os.Clearenv()
	for _, entry := range spec.Env {
		name, value, _ := strings.Cut(entry, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("setting environment variable %q: %w", name, err)
		}
	}
	who, err := lookUpUser(spec.User)
	if err != nil {
		return err
	}
	if err := dropPrivileges(who); err != nil {
		return err
	}
	program, err := exec.LookPath(spec.Args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) { // a program in the working directory is none of ours
		return fmt.Errorf("finding program in the image: %w", err)
	}
	if err := unix.Exec(program, spec.Args, spec.Env); err != nil {
		return fmt.Errorf("executing %s: %w", program, err)
	}
	return nil
}

// enterRoot makes a directory the root, with nothing else of the tree left.
func enterRoot(root string) error {
	// Nothing mounted here may show outside.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	// The new root has to be a mount.
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mounting root %s: %w", root, err)
	}
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("entering root: %w", err)
	}
	// The old root is put on top of the new one, from where it is taken away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("changing root to %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leaving the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("entering root: %w", err)
	}
	return nil
}

// resolverFiles returns the content of the files by which names are resolved.
func resolverFiles(wanted bool) (map[string][]byte, error) {
	files := make(map[string][]byte)
	if !wanted {
		return files, nil
	}
	for _, path := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the files by which names are resolved: %w", err)
		}
		files[path] = content
	}
	return files, nil
}

func writeFiles(files map[string][]byte) error {
	for path, content := range files {
		err := os.MkdirAll(filepath.Dir(path), 0o755) //nolint:gosec // for everybody
		if err == nil {
			// It may be a symbolic link to what is not there.
			if err = os.Remove(path); errors.Is(err, os.ErrNotExist) {
				err = nil
			}
		}
		if err == nil {
			err = os.WriteFile(path, content, 0o644) //nolint:gosec // for everybody
		}
		if err != nil {
			return fmt.Errorf("writing %s in the container: %w", path, err)
		}
	}
	return nil
}

// startLoopback sets the only interface of a new network namespace up.
func startLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	return nil
}
