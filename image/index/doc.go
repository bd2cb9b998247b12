// Package index holds the layer index: everything a node needs to know of one
// image layer besides its data.
//
// [Build] reads a stored layer blob once and makes its index: an [Entry] for every
// member of the tar, the digest of every block of the layer stream, and the frames
// from which any part of the stream can be decoded. [Open] reads an index through
// an [io.ReaderAt], as little of it as is needed: [Layer.Entries] walks the
// entries, [Layer.BlockDigest] tells what a block must hash to, [Layer.FrameAt] and
// [Layer.Decode] turn a range of the blob into a range of the stream.
//
// An index describes what unpacking the layer as containerd does would make of each
// member of the tar: paths are cleaned and stay below the root, times and owners
// are those that would be set, attributes that would be refused are left out. Merging
// layers, whiteouts included, is not its business, and neither is fetching bytes.
//
// Blobs and indexes are not trusted. What breaks the format or one of the limits
// below is an error, never a panic nor memory without bound. Whether an index is
// the right one for a layer is for its digest to show, and for the caller to check.
//
// The bytes are specified in docs/format.md. They are the same for the same blob,
// so a layer that has been indexed twice is stored once.
package index
