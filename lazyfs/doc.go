// Package lazyfs mounts images whose data has not arrived.
//
// An [FS] serves all mounts of a process over one source of blocks. [FS.Mount] puts
// the root of an image on a directory; files read from it wait for exactly the blocks
// they need, while a background fill fetches the rest.
//
// # Backends
//
// Three ways lead to the same tree; [Probe] finds out which of them a machine has:
//
//   - [Erofs]: an EROFS image with all metadata and no data, built from the layer
//     indexes and kept as a plain local file, is mounted file-backed; each layer
//     stream is one device of it.
//   - [Loop]: the same behind loop devices, for kernels that mount EROFS from block
//     devices only.
//   - [Tree]: a FUSE filesystem over the same merged tree, where there is no EROFS.
//
// With the first two the kernel answers everything but reads of data that it has not
// cached: no lookup, stat or readdir ever reaches this process. A layer that is complete
// in the cache when the image is mounted is given to the kernel as the plain cache file,
// pinned; an image all of whose layers are complete does not depend on this process
// at all. Every other layer is a file of a small FUSE filesystem, package flat.
//
// # What readers may rely on
//
// A read returns the right bytes or fails with EIO. It fails when the source has not
// delivered by the deadline, and the kernel keeps nothing of a failed read: as soon as the
// source is back, the next read works. There are never zeros in place of data.
// A signal does not disturb a read, unless it kills the reader.
//
// # Files and mounts
//
// Everything lives under [Config.StateDir], which belongs to one process at a time and
// must be on a real filesystem, not an overlay:
//
//	lock            held while an FS runs
//	rootfs/         metadata images by image ID, kept for the next mount
//	flat/           the mount point of package flat, mounted while in use
//	mnt/            mount points of roots with an overlay on top
//	records/        what another process has to know of each mount and connection
//	probe/          scratch space of Probe
//
// Mounts are undone in the order overlay, root, loop devices, FUSE: each uses the next.
//
// # When the process ends
//
// A mount of which every layer is a plain file needs no process: it is left as it is, and
// the next process finds its record, pins its layers again, and can unmount it.
//
// Any other mount needs a process to answer the kernel. With a [Config.Keeper] the FUSE
// connection outlives this one, however it ends: readers wait, the next [FS.Run] serves
// the connection under the same node numbers, which come from the layers, and the
// kernel hands out again what had been read and not answered. The order in Run is records,
// layers ([Config.Reopen]), connections, and only then the probe of backends, since
// programs may be waiting. This takes Linux 6.9; on older ones nothing is kept.
//
// What cannot be gone on with is removed: mounts without a keeper, mounts whose record is
// damaged, records of mounts that are gone or of another start of the machine. Each
// concerns itself alone. Programs that use a mount when it is removed keep what the
// kernel has cached, and get EIO for the rest; a new mount beside it is not affected.
//
// A process must not read through its own mounts while it holds something that
// serving a read needs.
package lazyfs
