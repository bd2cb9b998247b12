package mkimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// debianPackages downloads packages with all that they depend on, as apt of this machine
// is set up, and returns their paths in a fixed order.
func debianPackages(ctx context.Context, scratch string, names ...string) ([]string, error) {
	archives, none := filepath.Join(scratch, "archives"), filepath.Join(scratch, "status")
	if err := os.MkdirAll(filepath.Join(archives, "partial"), 0o750); err != nil {
		return nil, fmt.Errorf("making a directory for packages: %w", err)
	}
	// An empty status: what this machine has installed is not in the image.
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		return nil, fmt.Errorf("downloading packages: %w", err)
	}
	if err := command(ctx, "apt-get", append([]string{
		"-o", "Dir::State::status=" + none, "-o", "Dir::Cache::archives=" + archives, "-o", "Debug::NoLocking=1",
		"-o", "APT::Sandbox::User=root", "-o", "APT::Install-Recommends=0", "--yes", "--download-only", "install",
	}, names...)...); err != nil {
		return nil, err
	}
	packages, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err == nil && len(packages) == 0 {
		err = errors.New("apt-get has downloaded none")
	}
	if err != nil {
		return nil, fmt.Errorf("looking for downloaded packages: %w", err)
	}
	slices.Sort(packages)
	return packages, nil
}

// unpackDebian unpacks packages into a new directory. Their scripts are not run.
func unpackDebian(ctx context.Context, root string, packages []string) error {
	for _, dir := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", dir), 0o755); err != nil { //nolint:gosec // directories of an image
			return fmt.Errorf("making the root of an image: %w", err)
		}
		if err := os.Symlink("usr/"+dir, filepath.Join(root, dir)); err != nil {
			return fmt.Errorf("making the root of an image: %w", err)
		}
	}
	for _, dir := range []string{"dev", "etc", "proc", "root", "sys", "tmp", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil { //nolint:gosec // directories of an image
			return fmt.Errorf("making the root of an image: %w", err)
		}
	}
	for _, file := range packages {
		// dpkg-deb -x replaces links to directories by directories.
		script := `dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"`
		if err := command(ctx, "bash", "-o", "pipefail", "-c", script, "unpack", file, root); err != nil {
			return err
		}
	}
	return nil
}

// command runs a program, and says what it wrote when it fails.
func command(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w: %s", program, err, bytes.TrimSpace(out[max(0, len(out)-2048):]))
	}
	return nil
}
