package gzran

import (
	"errors"
	"fmt"
)

// ErrCorrupt says that the bytes are not the gzip stream they should be. Input
// that merely ends too early is reported as [io.ErrUnexpectedEOF] instead.
var ErrCorrupt = errors.New("gzip stream corrupt")

// StreamError says where in a gzip stream decoding stopped and why. Err is
// [ErrCorrupt], [io.ErrUnexpectedEOF], or the error of the reader below.
type StreamError struct {
	Offset int64  // bytes from the start of the gzip stream
	Reason string // what was wrong there
	Err    error
}

// Error implements error.
func (e *StreamError) Error() string {
	return fmt.Sprintf("%s at byte %d: %v", e.Reason, e.Offset, e.Err)
}

// Unwrap returns the cause.
func (e *StreamError) Unwrap() error { return e.Err }
