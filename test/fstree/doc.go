// Package fstree takes a snapshot of a directory tree with everything a program
// can see of it, and tells the differences between two snapshots. Tests use it to
// hold a mounted root against what containerd's own unpacking makes of the same
// layers: [Unpack] is the oracle, [Take] reads the candidate, [Diff] compares.
//
// Compared are type, mode, owner, size, content, link target, hard-link group and
// count, device number, extended attributes and modification time. The size and
// link count of directories are not, because every filesystem counts them its own
// way, and neither are access and change times.
package fstree
