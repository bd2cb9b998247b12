// Package erofs turns the layer indexes of an image into rootfs metadata: an EROFS
// image without file data, in which every file refers to ranges of layer streams.
//
// [Merge] unpacks the layers and returns the [Tree] that a container on them gets from
// containerd's overlayfs snapshotter. Each layer is unpacked into a directory of its own,
// and an overlay shows them on top of each other: a directory that an upper layer lists
// again has the attributes of that entry and no others, a whiteout is a device node 0:0
// wherever it comes from, and an entry whose path leads through a symbolic link of a layer
// below makes a directory in its place. Within a layer, merging follows what a Linux
// filesystem does with owners, ACLs and capabilities.
//
// A chain that containerd refuses is refused here, but for two things that only its
// overlayfs snapshotter refuses: a hard link to a file of a layer below, and a whiteout of
// what the same layer has made. The tree can be walked and serves as the filesystem where
// the kernel has no EROFS. It leaves out what cannot be opened: whiteouts that an overlay
// lists in directories of a single layer.
//
// [Build] encodes a tree. The image has blocks of 512 bytes, the unit of tar, so
// that a file can start wherever a tar has put it, and one chunk index for each
// file that lies in one piece. Device i+1 of the image is the layer stream of layer
// i; the image alone is enough for everything but reading files. The same tree
// gives the same bytes.
//
// What the kernel reads beyond a file's end, in its last block, is the padding of
// the tar. A device must therefore reach to a multiple of 512 bytes even when the
// layer stream does not.
//
// Neither function reads the network or the clock, and both are safe to call
// concurrently on different trees.
package erofs
