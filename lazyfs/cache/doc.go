// Package cache keeps blocks of layer streams on a node: [Memory] in memory,
// [Disk] in files, of which it bounds the inodes and leaves others room on the disk
// too. Both are bounded in bytes, give up what has not been used for longest, and implement [block.Store] and [block.Holder]. [Objects] keeps small
// content-addressed blobs such as layer indexes.
//
// # The directory of a Disk
//
//	lock                      held by the one process that uses the directory
//	version                   which layout of the directory this is
//	recency                   what was used when (see recency.go)
//	clean                     exists only between a clean stop and the next start; names
//	                          the layers that were read back (see check.go)
//	layers/<stream>/data      the layer stream, sparse: blocks at their offsets
//	layers/<stream>/presence  which blocks are in data (see presencerecord.go)
//	layers/<stream>/pinned    exists while a mount uses data without the cache
//
// Keep it on a real filesystem that can punch holes, not on an overlay.
//
// # When a block is readable
//
// A block is readable only once it is written whole and was verified by whoever
// put it. Which blocks are there is never told from holes, only from presence bits:
// in memory while the process runs, in the presence record across restarts.
//
//   - Put writes the data, then sets the bit in memory. The page cache outlives the
//     process, so nothing is flushed on the way.
//   - A commit flushes the data (fdatasync), then replaces the record by one with
//     the bits set at the time the flush began. So a record never promises data
//     that may be lost, whatever dies in whichever moment; what was not committed
//     is fetched again.
//   - Eviction clears the bit in memory, replaces the record, and only then punches
//     the hole. A reader checks after reading that no bit of the layer has been
//     cleared meanwhile, and reads again if one has; so it never sees the hole.
//   - Writing and evicting one block exclude each other.
//
// After a stop that was not clean every block that a record promises is verified
// against its digest before its first use, as disks and filesystems are known to
// break the promise of a flush; a wrong one counts as absent.
//
// After a clean stop ReadAt believes the record. Fetch, which peers are served from,
// hashes every block at least once in each process, and Check reads a block from the
// disk, past the page cache, and hashes it. A layer is pinned for a mount that reads its
// file directly only once every block of it was read back in this way.
//
// # Concurrency
//
// Everything may be called concurrently. Disk.Run owns the only goroutine: commits,
// eviction ahead of need, and giving back the page cache of what was written 30 s ago. Without it the cache works, but commits only when it
// is closed or told to.
package cache
