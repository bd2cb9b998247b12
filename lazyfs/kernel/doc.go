// Package kernel holds the system calls behind the mounts: EROFS and overlayfs by
// the mount API with file descriptors, loop devices, unmounting that waits, the list
// of mounts, and readahead windows. It decides nothing.
package kernel
