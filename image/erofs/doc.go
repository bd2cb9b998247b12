// Package erofs turns the layer indexes of an image into rootfs metadata: an EROFS
// image without file data, in which every file refers to ranges of layer streams.
//
// [Merge] applies the layers on top of each other and returns the [Tree] that
// containerd would unpack from the same layers: whiteouts, opaque directories,
// changes of type, hard links, symbolic links in the paths of entries, and what a
// Linux filesystem does with owners, ACLs and capabilities on the way. A chain
// that containerd refuses is refused here. The tree can be walked and serves as
// the filesystem where the kernel has no EROFS.
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
