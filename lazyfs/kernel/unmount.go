package kernel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// The pauses between attempts to unmount something that is in use.
const (
	firstPause = 2 * time.Millisecond
	lastPause  = 200 * time.Millisecond
)

// Unmount unmounts what is mounted on dir, again and again until nobody uses it or
// ctx ends. With detach it takes the mount out of the tree at once, whoever uses it.
// A directory with nothing mounted on it is no error.
func Unmount(ctx context.Context, dir string, detach bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if detach {
		flags |= unix.MNT_DETACH
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := unix.Unmount(dir, flags)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmounting %s: %w", dir, err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("unmounting %s, which is still in use: %w", dir, err)
		case <-timer.C:
		}
	}
}
