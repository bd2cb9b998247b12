package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// nodePath is the PATH of everything in a node.
const nodePath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"

// runNode is the first process of a node: it prepares the namespaces and runs services
// until it is killed.
func runNode(input io.Reader) error {
	var spec nodeSpec
	if err := json.NewDecoder(input).Decode(&spec); err != nil {
		return fmt.Errorf("reading what node this is: %w", err)
	}
	if err := os.Setenv("PATH", nodePath+":"+os.Getenv("PATH")); err != nil {
		return fmt.Errorf("setting the path: %w", err)
	}
	logs, err := os.Open(spec.Logs)
	if err != nil {
		return fmt.Errorf("opening the directory of logs: %w", err)
	}
	if err := spec.setUp(); err != nil {
		return fmt.Errorf("setting up node %s: %w", spec.Name, err)
	}
	if err := os.Unsetenv(envStage); err != nil {
		return fmt.Errorf("forgetting the stage: %w", err)
	}
	return newManager(spec.Name, logs).run()
}

func (s nodeSpec) setUp() error {
	if err := syscall.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("setting the name: %w", err)
	}
	if err := s.mounts(); err != nil {
		return err
	}
	links := [][]string{
		{"link", "set", "lo", "up"},
		{"link", "set", "eth0", "up"},
		{"addr", "add", s.IP + "/24", "dev", "eth0"},
		{"route", "add", "default", "via", s.Routes["default"]},
	}
	for network, gateway := range s.Routes {
		if network != "default" {
			links = append(links, []string{"route", "add", network, "via", gateway})
		}
	}
	for _, args := range links {
		if err := ip(args...); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o600); err != nil {
		return fmt.Errorf("forwarding packets: %w", err)
	}
	return nil
}

// mount is one mount of a node.
type mount struct {
	what, where, kind string
	flags             uintptr
	options           string
}

// mounts makes the root directory of the node that of this process, and lets go of all
// other mounts.
func (s nodeSpec) mounts() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	in := func(path string) string { return filepath.Join(s.Root, path) }
	bin := in("programs/local/bin")
	for _, dir := range []string{"programs/a", "programs/b"} {
		err = errors.Join(err, os.MkdirAll(in(dir), 0o750))
	}
	err = errors.Join(err, os.MkdirAll(bin, 0o750), s.linkPrograms(bin))
	file, createErr := os.OpenFile(in("self/systemctl"), os.O_CREATE|os.O_RDWR, 0o700) //nolint:gosec // a program
	if err := errors.Join(err, createErr); err != nil {
		return fmt.Errorf("preparing the programs: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("preparing the programs: %w", err)
	}
	all := []mount{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{s.Root, s.Root, "", unix.MS_BIND, ""},
		{"proc", in("proc"), "proc", 0, ""},
		{"/sys", in("sys"), "", unix.MS_BIND | unix.MS_REC, ""},
		{"/dev", in("dev"), "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", in("run"), "tmpfs", 0, "mode=755"},
		{s.Programs[0], in("programs/a"), "", unix.MS_BIND, ""},
		{s.Programs[1], in("programs/b"), "", unix.MS_BIND, ""},
		{self, in("self/systemctl"), "", unix.MS_BIND, ""},
		// The programs of the machine, and those of the node over them.
		{"overlay", in("usr"), "overlay", unix.MS_RDONLY, "lowerdir=" + in("programs") + ":/usr"},
	}
	for name := range sysctls() {
		all = append(all, mount{in("etc/kubernetes/sysctl/" + name), in("proc/sys/" + name), "", unix.MS_BIND, ""})
	}
	for _, m := range all {
		if err := unix.Mount(m.what, m.where, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mounting %s: %w", m.where, err)
		}
	}
	if err := os.Chdir(s.Root); err != nil {
		return fmt.Errorf("entering the root directory: %w", err)
	}
	if err := unix.PivotRoot(".", "old"); err != nil {
		return fmt.Errorf("changing the root directory: %w", err)
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("letting go of the machine: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("entering the root directory: %w", err)
	}
	// So that pods can mount something for the node.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing mounts with pods: %w", err)
	}
	return nil
}

// linkPrograms makes links to all programs that a node has of its own.
func (s nodeSpec) linkPrograms(bin string) error {
	links := map[string]string{"systemctl": "/self/systemctl"}
	for i, dir := range s.Programs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if entry.Name() != "lock" {
				links[entry.Name()] = "/programs/" + string(rune('a'+i)) + "/" + entry.Name()
			}
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(bin, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
