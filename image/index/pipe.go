package index

import (
	"context"
	"errors"
	"io"

	"github.com/brisk-project/brisk/internal/block"
)

// pipeBuffers is how many buffers of one block each are under way between two
// stages, 2 MiB: enough to ride out a pause of either side.
const pipeBuffers = 8

// pipe carries bytes from one goroutine to another in recycled buffers. Every
// buffer but the last is full, so on the pipe that carries the layer stream a
// buffer is a block. The writer ends it with finish; when the writer fails, it
// ends the context instead.
type pipe struct {
	full chan []byte
	free chan []byte
	done <-chan struct{}
	why  func() error // why done is closed
}

// newPipe returns a pipe that gives up when ctx ends.
func newPipe(ctx context.Context) *pipe {
	p := &pipe{
		full: make(chan []byte, pipeBuffers),
		free: make(chan []byte, pipeBuffers),
		done: ctx.Done(),
		why:  func() error { return context.Cause(ctx) },
	}
	for range pipeBuffers {
		p.free <- nil
	}
	return p
}

// pump moves r to its end into the pipe. Buffers are made when they are needed
// first.
func (p *pipe) pump(r io.Reader) error {
	for {
		var buf []byte
		select {
		case buf = <-p.free:
		case <-p.done:
			return p.why()
		}
		if buf == nil {
			buf = make([]byte, block.Size)
		}
		n, err := fill(r, buf[:block.Size])
		if n > 0 {
			select {
			case p.full <- buf[:n]:
			case <-p.done:
				return p.why()
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// finish says that nothing more comes.
func (p *pipe) finish() { close(p.full) }

// fill reads until p is full or r fails. Unlike [io.ReadFull] it returns the
// error of r as it is, so that a failure cannot be taken for the end.
func fill(r io.Reader, p []byte) (int, error) {
	n, idle := 0, 0
	for n < len(p) {
		m, err := r.Read(p[n:])
		n += m
		if err != nil {
			return n, err
		}
		if m > 0 {
			idle = 0
		} else if idle++; idle == 100 {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

// pipeReader reads what was pumped into a pipe.
type pipeReader struct {
	pipe *pipe
	buf  []byte // the current buffer, and what is left of it
	rest []byte
	err  error
	size int64 // bytes received
	// onBuffer is called with every buffer when it arrives.
	onBuffer func([]byte) error
}

// Read implements [io.Reader].
func (r *pipeReader) Read(p []byte) (int, error) {
	if err := r.need(); err != nil {
		return 0, err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// need makes sure that rest is not empty.
func (r *pipeReader) need() error {
	if len(r.rest) > 0 || r.err != nil {
		return r.err
	}
	if r.buf != nil {
		r.pipe.free <- r.buf
		r.buf = nil
	}
	select {
	case buf, ok := <-r.pipe.full:
		if r.buf = buf; !ok {
			r.err = io.EOF
		}
	case <-r.pipe.done:
		r.err = r.pipe.why()
	}
	if r.err != nil {
		return r.err
	}
	r.size += int64(len(r.buf))
	if r.err = r.onBuffer(r.buf); r.err != nil {
		return r.err
	}
	r.rest = r.buf
	return nil
}

// drain reads to the end and returns nil when that is a clean one.
func (r *pipeReader) drain() error {
	for {
		if err := r.need(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		r.rest = nil
	}
}
