package main

import (
	"math"
	"runtime/debug"

	"github.com/brisk-project/brisk/image/convert"
)

// What the Go runtime may take of memory in a conversion before it collects garbage more often, in bytes. The resident set
// has the code of the program besides, 25 MB.
const (
	indexMemory = 150 << 20
	fullMemory  = 420 << 20
)

// limitMemory makes a conversion collect garbage before its memory doubles, as the default would have it. It is a soft limit:
// an image that needs more gets more. A limit that the caller has set with GOMEMLIMIT stays.
func limitMemory(mode convert.Mode) {
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	if mode == convert.ModeIndex {
		debug.SetMemoryLimit(indexMemory)
		return
	}
	debug.SetMemoryLimit(fullMemory)
}
