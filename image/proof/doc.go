// Package proof checks what a layer index claims against the layer stream.
//
// Blocks are verified against the block digests of an index, and the stream ID is a digest
// of these. So an index cannot lie about the bytes of its stream. It can lie about what
// the stream is, its diffID, and about what is in it, its entries. Both show when the
// stream is read to its end: a [Prover] is given all of it and computes the [StreamDigests], with
// the code that builds indexes. [StreamDigests.Check] compares them with an index, and
// [RebuiltIndex.Check] names the first difference too.
//
// [StreamDigests] depend on the stream alone. They hold for every index with its stream ID, however
// the blob is compressed.
package proof
