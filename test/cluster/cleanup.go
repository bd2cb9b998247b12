package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// cleanTimeout is how long the kernel may take to end all processes of a cluster.
	cleanTimeout  = 30 * time.Second
	cleanInterval = 100 * time.Millisecond
	cgroupRoot    = "/sys/fs/cgroup"
)

// clean waits for the end of input, that is of the test program, and removes the control
// groups and the directory of the cluster.
func clean(dir string, input io.Reader) error {
	if _, err := io.Copy(io.Discard, input); err != nil {
		return fmt.Errorf("waiting for the end of the test: %w", err)
	}
	groups, err := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroupName(dir)))
	if err != nil {
		return fmt.Errorf("finding control groups: %w", err)
	}
	groups = append(groups, filepath.Join(cgroupRoot, cgroupName(dir)))
	timeout := time.NewTimer(cleanTimeout)
	defer timeout.Stop()
	for {
		err = removeGroups(groups)
		if err == nil {
			if err = os.RemoveAll(dir); err == nil { //nolint:gosec // made by this program
				return nil
			}
		}
		select {
		case <-time.After(cleanInterval):
		case <-timeout.C:
			return fmt.Errorf("removing what is left of the cluster: %w", err)
		}
	}
}

// removeGroups removes control groups with all below. It cannot while there is a process
// in one of them.
func removeGroups(groups []string) error {
	var errs []error
	for _, group := range groups {
		var dirs []string
		err := filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error { //nolint:gosec // made by this program
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		errs = append(errs, err)
		for _, path := range slices.Backward(dirs) {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// cgroupName returns the name of the control group of a cluster.
func cgroupName(dir string) string { return filepath.Base(dir) }

// makeGroups makes the control group of a node in every hierarchy, and returns its path
// in each.
func makeGroups(dir, node string) (string, error) {
	path := filepath.Join("/", cgroupName(dir), node)
	roots := []string{cgroupRoot}
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err != nil {
		if roots, err = filepath.Glob(filepath.Join(cgroupRoot, "*", "cgroup.procs")); err != nil {
			return "", fmt.Errorf("finding the control groups: %w", err)
		}
		for i := range roots {
			roots[i] = filepath.Dir(roots[i])
		}
	}
	for _, root := range roots {
		if err := os.MkdirAll(filepath.Join(root, path), 0o750); err != nil {
			return "", fmt.Errorf("making a control group: %w", err)
		}
		// A new group has no processors and no memory to run on.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := inherit(root, path, name); err != nil {
				return "", err
			}
		}
	}
	return path, nil
}

// inherit gives a group and the one above it the value of the root.
func inherit(root, path, name string) error {
	value, err := os.ReadFile(filepath.Join(root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("preparing a control group: %w", err)
	}
	for _, group := range []string{filepath.Dir(path), path} {
		if err := os.WriteFile(filepath.Join(root, group, name), value, 0o600); err != nil { //nolint:gosec // made by this program
			return fmt.Errorf("preparing a control group: %w", err)
		}
	}
	return nil
}
