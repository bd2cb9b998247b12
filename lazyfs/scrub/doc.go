// Package scrub finds bit rot in the disk cache and mends it.
//
// A [Scrubber] reads every block of the cache from the disk, past the page cache, once in
// an interval, the layers used last first. It reads a layer back as soon as it is
// complete, before a mount reads its file directly. A wrong block has been taken out of
// the cache when it is reported ([cache.Disk.Check]); the Scrubber fetches it again,
// which writes it over in place, reads it back once more, drops what page caches have of
// it, and counts and logs it. Pages that programs have mapped cannot be dropped: the
// Scrubber says so, and tries again until they can.
//
// A block that is found wrong again after it was mended, or many wrong blocks within a
// month, make the disk suspect. The Scrubber then goes on, and says so until
// [Scrubber.Trust] is called.
//
// # Cost
//
// Reads have the I/O priority "idle". Hashing runs at normal CPU priority for a bounded
// share of the time: a Go thread of the scheduling class SCHED_IDLE would hold up every
// garbage collection of the process on a busy machine, for 0.2 s and more.
//
// # State
//
// Progress, pending repairs, blocks whose pages could not be dropped, and the wrong blocks
// of the last month are kept in one JSON file. Without it, or when it is damaged, the next pass begins at once.
package scrub
