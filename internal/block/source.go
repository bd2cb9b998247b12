package block

import (
	"context"
	"errors"
	"fmt"
)

// The errors callers decide on, tested with [errors.Is].
var (
	// ErrNotFound says that a source does not hold the block. Another source may.
	ErrNotFound = errors.New("block not found")
	// ErrCorrupt says that bytes did not have the digest they should have. They
	// have been dropped; the same source is not worth asking again at once.
	ErrCorrupt = errors.New("block corrupt")
	// ErrUnavailable says that a source could not be reached or did not answer in
	// time. The same request may succeed later.
	ErrUnavailable = errors.New("source unavailable")
)

// Class orders requests that compete for the same link or disk: a lower class
// goes first.
type Class uint8

// The classes, most urgent first.
const (
	// ClassRead is a read a program waits for. It is the zero value.
	ClassRead Class = iota
	// ClassHead is the head of a trace: needed within moments.
	ClassHead
	// ClassTail is the rest of a trace.
	ClassTail
	// ClassFill is background fill: it yields to everything else.
	ClassFill
)

// String names the class as metrics and logs do.
func (c Class) String() string {
	switch c {
	case ClassRead:
		return "read"
	case ClassHead:
		return "head"
	case ClassTail:
		return "tail"
	case ClassFill:
		return "fill"
	default:
		return fmt.Sprintf("class %d", uint8(c))
	}
}

// Request asks for the blocks of a range, for a purpose.
type Request struct {
	Range
	Class Class
}

// Sink receives one block. It must not modify data nor keep it after it has
// returned. An error from a sink ends the fetch.
type Sink func(k Key, data []byte) error

// Source reads blocks.
//
// Fetch delivers the blocks of req to sink, in any order, each at most once. It
// may deliver blocks that were not asked for and came along, such as the rest of
// a decompressed frame; a sink ignores what it has no use for.
//
// Fetch returns nil if and only if it has delivered every block of req. A source
// that holds only some of them delivers those and returns an error wrapping
// [ErrNotFound]; blocks past the end of a layer stream and unknown layers are
// blocks it does not hold. An error of sink is returned as it is. On any other
// error some blocks may have been delivered. An empty range is delivered by doing
// nothing.
//
// Calls of sink by one Fetch do not overlap and none happens after Fetch has
// returned. Fetch itself may be called concurrently. When ctx ends, Fetch stops
// waiting and returns an error wrapping the ctx's cause.
type Source interface {
	Fetch(ctx context.Context, req Request, sink Sink) error
}

// Store is a source that also accepts blocks.
//
// Put stores one block: once it has returned nil, Fetch delivers the block, until
// the store evicts it. Put neither modifies data nor keeps it. Storing a block
// that is present already is not an error. Put does not check the content: only
// verified blocks may be put. A block is never visible half written.
type Store interface {
	Source
	Put(ctx context.Context, k Key, data []byte) error
}

// Holder is implemented by stores that can tell without I/O whether they hold a
// block. The answer may be out of date when it arrives.
type Holder interface {
	Has(k Key) bool
}

// Layout returns the lengths and digests of the blocks of layer streams. Layer
// indexes implement it; whatever verifies or parses untrusted blocks needs it.
type Layout interface {
	// StreamSize returns the length in bytes of a layer stream, and whether the
	// layer is known.
	StreamSize(layer Digest) (int64, bool)
	// BlockDigest returns the digest of one block, and whether it is known.
	BlockDigest(k Key) (Digest, bool)
}

// Error is the error of a source with the facts a person needs to act on it.
type Error struct {
	Source string // which kind of source: memory, disk, peer, registry, shared
	Op     string // what was being done, such as "reading" or "verifying"
	Range  Range  // which blocks
	Err    error  // why not
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("%s blocks %s from %s: %v", e.Op, e.Range, e.Source, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
