// Package zframes compresses a stream to a zstd blob that can be read from any of its frames:
// every frame holds the same number of bytes of the stream, the last one what is left, and
// depends on no other. The blob is an ordinary zstd stream (RFC 8878) for every decoder.
//
// A skippable frame at the end lists the frames as the zstd seekable format does, so that other
// tools can seek too. Brisk does not read it: a layer index has a table of its own.
//
// The same stream gives the same blob with the same version of this package, whatever the number
// of processors.
package zframes
