// Package fusefs holds what the FUSE filesystems of lazyfs have in common: how a
// server is mounted and ended, how requests are counted, how an error becomes the
// number the kernel understands, and when a read may be given up.
//
// The settings follow measurements on Linux 6.18. Passthrough is not negotiated: it
// would make EROFS refuse the filesystem as a device. Requests are up to 1 MiB, and
// the readahead window, which the kernel limits to 128 KiB at the start, is raised to
// the same through the filesystem's bdi. Opens and opendirs are answered once for all
// with ENOSYS, which makes the kernel keep its page cache between opens too.
//
// The descriptor of the FUSE device is opened close-on-exec and handed to go-fuse,
// so that no child process can keep a connection alive by accident, and unmounting
// is in the hands of this package, which knows how to wait.
package fusefs
