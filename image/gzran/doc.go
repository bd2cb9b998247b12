// Package gzran reads a gzip stream from the middle.
//
// A [Reader] inflates a stream once, from its beginning, and records checkpoints
// on the way: places where a member or a deflate block begins, with the output
// before them that the stream still refers to. [Resume] inflates from any
// checkpoint on, given the stored bytes from there on, so that the bytes between
// two checkpoints cost no more than reading and inflating those.
//
// The decoder is our own because a checkpoint needs to know which bit a block
// begins at and which bytes of the window are used, which other decoders do not
// tell. A window is kept only as far as something refers to it, and compressed:
// 2 to 2.6 KB for a checkpoint on real layers instead of 32.
//
// Streams of several members (eStargz, bgzip, concatenated files) are one stream.
// What follows the last member without beginning like another one, such as zero
// padding, is ignored, as gunzip does, and counted by [Reader.TrailingBytes].
//
// Input is not trusted, neither streams nor checkpoints: what breaks the format is
// a [*StreamError] that names the offset and wraps [ErrCorrupt], a stream that ends
// too early one that wraps [io.ErrUnexpectedEOF]. Readers share nothing and are
// for one goroutine each.
package gzran
