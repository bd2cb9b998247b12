// Package startup holds what the start of an image reads. A [Trace] is the ordered list of
// the pages read, each once; the blocks it touches are the start-up set of the image. A
// [Recorder] makes a trace of reads. A [History] merges those of several starts. A [File] is a
// trace with what is known of its origin, in the form in which it is kept on disk and in
// registries.
//
// A trace is a hint. A wrong one costs the loading of bytes that nobody reads, never a wrong
// byte. It needs no trust, but it is parsed with limits.
package startup
