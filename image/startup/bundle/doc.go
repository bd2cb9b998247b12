// Package bundle is the format of bundles: one blob with exactly the bytes of a start-up
// trace, in the order of the trace.
//
// A start reads pages that are scattered over many blocks, and blocks lie in frames of a
// megabyte: fetched as blocks, a start costs several times its bytes, in hundreds of
// requests. A bundle is one blob that is read from its beginning to its end.
//
// A bundle is a zstd stream: a skippable frame with the [Table], then independent frames
// which decompress to [Table.FrameSize] bytes each, the last one to less. Put together they
// are the content: the bytes of all spans, one after the other. docs/format.md has the bytes.
//
// # Trust
//
// A bundle is trusted as an index is: the manifest that lists it also names the digest of
// its table, and the table has the digest of every frame. So each frame is verified as it
// arrives, before a byte of it is used, and nothing has to wait for the end of the blob.
//
// The content of a bundle is not checked against block digests, since it has no whole
// blocks. So it must be served only to the image it belongs to, and never be cached or
// sent as blocks.
//
// Everything in a bundle is parsed with limits: a damaged or hostile one costs time and
// bounded memory.
package bundle
