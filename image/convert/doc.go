// Package convert gives an image in a registry the layer indexes it needs to be
// started lazily, without touching the image; or makes another image of the same layer streams
// that is faster to read, with its indexes: see [Mode].
//
// Every layer that has no index yet is read once, from its first to its last byte,
// several layers at a time; nothing is kept on disk, and what is kept in memory
// does not grow with the layers but for their indexes. Blob digest and diffID are
// checked on the way. The indexes are pushed as an artifact of each platform
// manifest, and listed with the manifests under the tag with the suffix
// "_accelerated".
//
// In full mode every layer stream is compressed anew while it is read, and pushed while it is
// compressed. What is pushed is decoded at the same time to make its index and to compare its diffID, so
// that a blob that does not hold the stream is never stored. The manifests are pushed when all
// layers are there, and the tag last.
//
// The result depends on the image alone: converting it twice makes the same
// artifacts, and the second time reads no layer.
package convert
