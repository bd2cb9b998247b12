package fusefs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// ErrKilled is the cause of a read that ended because its reader is being killed.
var ErrKilled = errors.New("the reader is being killed")

// Errno translates an error of the read path for the kernel. Whatever went wrong
// with a block is EIO: readers know it, and the kernel keeps nothing of the failed
// read, so the next one tries again. EINTR is only for readers that are being killed:
// others would repeat the read at once and for ever.
func Errno(err error) fuse.Status {
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, ErrKilled):
		return fuse.EINTR
	case errors.Is(err, syscall.ENOMEM):
		return fuse.Status(syscall.ENOMEM)
	default:
		return fuse.EIO
	}
}
