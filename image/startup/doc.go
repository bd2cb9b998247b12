// Package startup holds what the start of an image has read: a [Trace] is the ordered list
// of blocks, its blocks are the start-up set. A [Recorder] makes one of reads; [Trace.Encode]
// and [Parse] are its form on disk.
//
// A trace is a hint. A wrong one costs blocks that nobody reads, never a wrong byte; so one
// that is damaged counts as none.
package startup
