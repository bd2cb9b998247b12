package source

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/brisk-project/brisk/internal/block"
)

// buffer is a block that waits to be passed to one or more sinks.
type buffer struct {
	data []byte
	refs atomic.Int32
	free *sync.Pool // where it goes when nobody needs it any more
}

// copied returns a buffer with a copy of data, for the caller to release.
func (s *SingleFlight) copied(data []byte) *buffer {
	b, ok := s.buffers.Get().(*buffer)
	if !ok {
		b = &buffer{data: make([]byte, 0, block.Size), free: &s.buffers}
	}
	b.data = append(b.data[:0], data...)
	b.refs.Store(1)
	return b
}

func (b *buffer) release() {
	if b.refs.Add(-1) == 0 {
		b.free.Put(b)
	}
}

// loan is a buffer that is being passed on.
type loan struct {
	buffer *buffer
	data   []byte
}

// lend calls pass, which passes on what a buffer holds. If that goes to a flight of another
// SingleFlight above, the flight need not copy it.
func lend(ctx context.Context, b *buffer, pass func() error) error {
	u := urgencyOf(ctx)
	if u == nil {
		return pass()
	}
	u.f.lent.Store(&loan{b, b.data})
	defer u.f.lent.Store(nil)
	return pass()
}

// borrow returns the buffer that data lies in, for the caller to release, or nil if none was lent. It
// may not be the one: two fetches below may lend at the same time, and what lies between may copy.
func (f *flight) borrow(data []byte) *buffer {
	l := f.lent.Load()
	if l == nil || len(data) == 0 || len(l.data) != len(data) || &l.data[0] != &data[0] {
		return nil
	}
	l.buffer.refs.Add(1)
	return l.buffer
}
