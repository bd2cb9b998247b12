package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// loopAttempts is how often a free loop device may be snatched by somebody else.
const loopAttempts = 64

// Loop is a read-only loop device. It goes away by itself when the last user has
// closed it, so Close it as soon as it is mounted.
type Loop struct {
	fd   int
	path string
}

// Path returns the device node.
func (l *Loop) Path() string { return l.path }

// Close releases the device.
func (l *Loop) Close() error {
	if err := unix.Close(l.fd); err != nil {
		return fmt.Errorf("closing %s: %w", l.path, err)
	}
	return nil
}

// AttachLoop puts a file behind a free loop device. With direct, reads bypass the page
// cache of the file if it allows that.
func AttachLoop(file string, direct bool) (*Loop, error) {
	backing, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", file, err)
	}
	defer closeFD(backing)
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the control of loop devices: %w", err)
	}
	defer closeFD(control)
	for range loopAttempts {
		l, err := attachNext(control, backing, direct)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attaching %s: %w", file, err)
		}
	}
	return nil, fmt.Errorf("attaching %s: every loop device found free was taken at once", file)
}

func attachNext(control, backing int, direct bool) (*Loop, error) {
	number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("asking for a free loop device: %w", err)
	}
	path := fmt.Sprintf("/dev/loop%d", number)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	config := unix.LoopConfig{
		Fd:   uint32(backing),
		Size: 512, // bytes of a block, as in the metadata
		Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR},
	}
	if direct {
		config.Info.Flags |= unix.LO_FLAGS_DIRECT_IO
	}
	if err := unix.IoctlLoopConfigure(fd, &config); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("setting up %s: %w", path, err)
	}
	return &Loop{fd: fd, path: path}, nil
}
