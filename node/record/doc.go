// Package record runs the program of an image on a lazy mount of its own, and records what
// the start of it reads: the trace. The cache is empty and the kernel has nothing of the
// image in memory, so every read is seen.
package record
