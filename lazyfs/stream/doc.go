// Package stream reads layer streams on behalf of the mounts.
//
// A [Reader] is shared by all mounts of a process; a [Layer] is one layer stream
// of it. A read takes one of two ways:
//
//   - [Layer.ReadLocal] answers from the local cache without waiting for anybody;
//   - [Layer.Fetch] waits for the blocks from a [block.Source], until the
//     deadline of the read.
//
// A read is answered in full or it fails: no byte that was not delivered by the
// cache or the source is ever handed out, so a missing block can be an error but
// never zeros. A source that cannot be reached is asked again, with growing
// pauses, until the deadline has passed.
//
// Two kinds of work run ahead of the reads. Read-ahead starts when the reads of a
// layer are sequential; it keeps up to [Config.ReadAhead] bytes on their way, in
// requests that end at extent boundaries. A [Filler] fetches everything that is
// missing of a set of layers, in large requests, and stands back while a read
// waits. Both deliver to nobody: the source must keep what it delivers, that is,
// there must be a store in its chain.
//
// All types are safe for concurrent use. Goroutines belong to [Reader.Run] and
// [Filler.Run].
package stream
