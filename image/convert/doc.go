// Package convert gives an image in a registry the layer indexes it needs to be
// started lazily, without touching the image.
//
// Every layer that has no index yet is read once, from its first to its last byte,
// several layers at a time; nothing is kept on disk, and what is kept in memory
// does not grow with the layers but for their indexes. Blob digest and diffID are
// checked on the way. The indexes are pushed as an artifact of each platform
// manifest, and listed with the manifests under the tag with the suffix
// "_accelerated".
//
// The result depends on the image alone: converting it twice makes the same
// artifacts, and the second time reads no layer.
package convert
