package gzran

import (
	"errors"
	"fmt"
)

// ErrCorrupt means that the bytes are not a correct gzip stream. Input
// that merely ends too early is reported as [io.ErrUnexpectedEOF] instead.
var ErrCorrupt = errors.New("gzip stream corrupt")

// StreamError has the position in a gzip stream at which decoding stopped, and the reason. Err is
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
