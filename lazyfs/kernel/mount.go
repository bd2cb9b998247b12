package kernel

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxPath is the longest path, in bytes, that a mount can refer to: the kernel takes
// strings of up to 255 bytes.
const MaxPath = 255

// Erofs is what an EROFS mount needs.
type Erofs struct {
	// Image is the file, or the block device, with the metadata.
	Image string
	// Devices hold the data: device i+1 of the image is Devices[i].
	Devices []string
	// Direct bypasses the page cache of the backing files.
	Direct bool
}

// MountErofs mounts an EROFS image read-only on the directory target. The error is
// ENOTBLK if this kernel can mount only block devices.
//
// The options go to the kernel one by one, since mount(2) takes one page of them in
// all, too little for the devices of an image with many layers.
func MountErofs(e Erofs, target string) error {
	params := []param{{"source", e.Image}}
	for _, d := range e.Devices {
		params = append(params, param{"device", d})
	}
	if e.Direct {
		params = append(params, param{"directio", ""})
	}
	return mount("erofs", params, target, unix.MOUNT_ATTR_RDONLY)
}

// Overlay is what an overlay mount needs: directories.
type Overlay struct {
	Lower, Upper, Work string
}

// MountOverlay mounts a writable overlay on the directory target.
func MountOverlay(o Overlay, target string) error {
	return mount("overlay", []param{
		{"source", "overlay"}, {"lowerdir", escape(o.Lower)}, {"upperdir", o.Upper}, {"workdir", o.Work},
	}, target, 0)
}

// escape protects the separators of a list of lower directories.
func escape(dir string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(dir)
}

type param struct{ key, value string }

func mount(fstype string, params []param, target string, attrs int) error {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("opening filesystem type %s: %w", fstype, err)
	}
	defer closeFD(fs)
	for _, p := range params {
		if len(p.value) > MaxPath {
			return fmt.Errorf("mounting %s on %s: %s %q is longer than %d bytes: %w",
				fstype, target, p.key, p.value, MaxPath, unix.ENAMETOOLONG)
		}
		if p.value == "" {
			err = unix.FsconfigSetFlag(fs, p.key)
		} else {
			err = unix.FsconfigSetString(fs, p.key, p.value)
		}
		if err != nil {
			return fmt.Errorf("mounting %s on %s: option %s=%s: %w", fstype, target, p.key, p.value, explain(fs, err))
		}
	}
	if attrs&unix.MOUNT_ATTR_RDONLY != 0 {
		if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
			return fmt.Errorf("mounting %s on %s read-only: %w", fstype, target, explain(fs, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("mounting %s on %s: %w", fstype, target, explain(fs, err))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return fmt.Errorf("mounting %s on %s: %w", fstype, target, explain(fs, err))
	}
	defer closeFD(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attaching %s to %s: %w", fstype, target, err)
	}
	return nil
}

// explain adds to an error what the kernel says about it.
func explain(fs int, err error) error {
	buf := make([]byte, 1024)
	var said []string
	for {
		n, readErr := unix.Read(fs, buf)
		if readErr != nil || n <= 0 {
			break
		}
		said = append(said, strings.TrimSpace(string(buf[:n])))
	}
	if len(said) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(said, "; "))
}

func closeFD(fd int) {
	_ = unix.Close(fd) //nolint:errcheck // nothing was written through it
}
