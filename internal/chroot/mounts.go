package chroot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountAll mounts the pseudo filesystems that programs expect, inside the new root.
func mountAll(temporary bool) error {
	const none = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	type mount struct {
		fstype, target string
		flags          uintptr
		options        string
	}
	all := []mount{
		{"proc", "/proc", none, ""},
		{"tmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=755,size=64k"},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"},
		{"tmpfs", "/dev/shm", none, "mode=1777,size=64m"},
		{"mqueue", "/dev/mqueue", none, ""},
		{"sysfs", "/sys", none | unix.MS_RDONLY, ""},
	}
	if temporary {
		all = append(all, mount{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"})
	}
	for _, m := range all {
		if err := os.MkdirAll(m.target, 0o755); err != nil { //nolint:gosec // a container's /proc is for everybody
			return fmt.Errorf("making mount point %s in the image: %w", m.target, err)
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.options); err != nil {
			return fmt.Errorf("mounting %s in the container: %w", m.target, err)
		}
	}
	if err := makeDevices(); err != nil {
		return fmt.Errorf("making devices in the container: %w", err)
	}
	return hide()
}

// makeDevices makes the devices that every container has.
func makeDevices() error {
	mask := unix.Umask(0)
	defer unix.Umask(mask)
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		if err := unix.Mknod("/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return err
		}
	}
	if err := unix.Mknod("/dev/tty", unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))); err != nil {
		return err
	}
	for name, to := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(to, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	return nil
}

// hide takes away what speaks of the machine, and write access to what changes it.
func hide() error {
	for _, path := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug"} {
		if err := bind("/dev/null", path); err != nil {
			return err
		}
	}
	for _, path := range []string{"/proc/acpi", "/proc/scsi", "/sys/firmware"} {
		err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY, "size=0")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("hiding %s: %w", path, err)
		}
	}
	for _, path := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		if err := bind(path, path); err != nil {
			return err
		}
		const flags = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
		if err := unix.Mount("", path, "", flags, ""); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("making %s read-only: %w", path, err)
		}
	}
	return nil
}

// bind mounts a path on another, if that is there.
func bind(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("mounting %s: %w", target, err)
	}
	return nil
}
