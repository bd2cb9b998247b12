package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/p2p/policy"
	"github.com/brisk-project/brisk/p2p/wire"
)

const (
	// requestQueue is how many requests may wait to be written. They are 80 bytes.
	requestQueue = 128
	// requestWrite is how long a peer may refuse to take 80 bytes.
	requestWrite = 5 * time.Second
)

var (
	errQueueFull    = errors.New("too many requests under way at this peer")
	errStreamClosed = errors.New("connection to peer closed")
	// errRefused is no failure of the peer: it is the asker that wants no more.
	errRefused = errors.New("peer holds an object larger than accepted")
)

// stream is what requesters and the server need of a network stream.
type stream interface {
	io.ReadWriter
	SetWriteDeadline(t time.Time) error
	Reset() error
}

// requester sends requests over one long-lived stream to a peer. Requests are
// pipelined; answers are told apart by their request ID.
type requester struct {
	stream stream
	pool   *bufferPool
	out    chan []byte   // frames to write
	closed chan struct{} // closed when the requester has failed

	mu      sync.Mutex // guards everything below
	pending map[uint64]*call
	lastID  uint64
	err     error // why the requester closed
}

// call is one request that has not ended.
type call struct {
	object bool
	first  uint32
	left   uint64 // blocks asked for and not come yet
	limit  uint64 // largest size accepted of an object
	size   uint64 // of the object, once a chunk has told
	next   uint32 // number of the next chunk of the object
	// frames has room for every frame that may still come, so that the reader of
	// the requester never waits for one call while another could go on.
	frames    chan frame
	abandoned bool // nobody reads frames any more
}

// frame is a received frame; buf, if not nil, holds the payload and goes back to
// the pool after use.
type frame struct {
	header wire.Header
	buf    *buffer
}

// payload returns the bytes that came with the frame.
func (f frame) payload() []byte { return f.buf[:f.header.Length] }

func newRequester(s stream, pool *bufferPool) *requester {
	return &requester{
		stream: s, pool: pool,
		out: make(chan []byte, requestQueue), closed: make(chan struct{}), pending: make(map[uint64]*call),
	}
}

// run reads and writes frames until the stream breaks, the peer breaks the
// protocol or ctx ends. It owns the stream.
func (l *requester) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { l.fail(context.Cause(ctx)) })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(l.write)
	l.fail(l.read())
	wg.Wait()
}

// fail closes the requester and every call of it. Only the first call has an effect.
func (l *requester) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = fmt.Errorf("%w: %w", errStreamClosed, err)
	close(l.closed)
	// The stream is given up in any case; a reset that fails found it gone.
	_ = l.stream.Reset() //nolint:errcheck // nothing depends on it
}

func (l *requester) write() {
	for {
		select {
		case <-l.closed:
			return
		case b := <-l.out:
			err := l.stream.SetWriteDeadline(time.Now().Add(requestWrite))
			if err == nil {
				_, err = l.stream.Write(b)
			}
			if err != nil {
				l.fail(err)
				return
			}
		}
	}
}

func (l *requester) read() error {
	var buf [wire.HeaderSize]byte
	for {
		h, err := wire.Read(l.stream, &buf)
		if err != nil {
			return err
		}
		if err := l.receive(h); err != nil {
			return err
		}
	}
}

// receive handles one frame. The buffer for a payload is taken only once it is
// clear that somebody asked for it, and never holds more than a block.
func (l *requester) receive(h wire.Header) error {
	c, err := l.match(h)
	if err != nil {
		return err
	}
	f := frame{header: h}
	if h.Type != wire.TypeEnd {
		f.buf = l.pool.get()
		if _, err := io.ReadFull(l.stream, f.payload()); err != nil {
			l.pool.put(f.buf)
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.abandoned {
		l.pool.put(f.buf)
		return nil
	}
	c.frames <- f // has room, see call.frames
	return nil
}

// match finds the call that a frame answers and checks that the frame may come.
func (l *requester) match(h wire.Header) (*call, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.pending[h.ID]
	if !ok {
		return nil, fmt.Errorf("%w: answer to request %d, which is not open", wire.ErrMalformed, h.ID)
	}
	switch {
	case h.Type == wire.TypeEnd:
		delete(l.pending, h.ID)
		return c, nil
	case h.Type == wire.TypeBlock && !c.object:
		bit := uint64(1) << (h.First - c.first)
		if h.First < c.first || c.left&bit == 0 {
			return nil, fmt.Errorf("%w: block %d was not asked for", wire.ErrMalformed, h.First)
		}
		c.left &^= bit
		return c, nil
	case h.Type == wire.TypeChunk && c.object:
		return c, c.matchChunk(h)
	default:
		return nil, fmt.Errorf("%w: type %d does not answer the request", wire.ErrMalformed, h.Type)
	}
}

// matchChunk makes sure that chunks come in order, as long as the size of the
// object says, so that their number is bounded by what the asker accepts.
func (c *call) matchChunk(h wire.Header) error {
	if c.next == 0 {
		c.size = h.Size
	}
	if h.Size > c.limit || h.Size != c.size || h.First != c.next || int(h.Length) != block.Length(int64(h.Size), h.First) {
		return fmt.Errorf("%w: chunk %d of %d bytes, of an object of %d bytes of which %d chunks have come and %d bytes are accepted",
			wire.ErrMalformed, h.First, h.Length, h.Size, c.next, c.limit)
	}
	c.next++
	return nil
}

// begin registers a call and queues its request. It never blocks.
func (l *requester) begin(h wire.Header, digest block.Digest, c *call) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return 0, l.err
	}
	if len(l.pending) >= wire.MaxOpen {
		return 0, errQueueFull
	}
	l.lastID++
	h.ID = l.lastID
	select {
	case l.out <- wire.Request(h, digest):
		l.pending[h.ID] = c
		return h.ID, nil
	default:
		return 0, errQueueFull
	}
}

// abandon gives a call up: the peer is told, and what still comes is dropped. It
// never blocks. It does nothing to a call that has ended.
func (l *requester) abandon(id uint64, c *call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.abandoned = true
	for {
		select {
		case f := <-c.frames:
			l.pool.put(f.buf)
			continue
		default:
		}
		break
	}
	if _, open := l.pending[id]; !open || l.err != nil {
		return
	}
	select {
	case l.out <- wire.Header{Type: wire.TypeCancel, ID: id}.Append(nil):
	default: // the peer finds out when its patience ends
	}
}

// next waits for the next frame of a call.
func (l *requester) next(ctx context.Context, c *call) (frame, error) {
	select {
	case f := <-c.frames:
		return f, nil
	case <-ctx.Done():
		return frame{}, context.Cause(ctx)
	case <-l.closed:
		l.mu.Lock()
		defer l.mu.Unlock()
		return frame{}, l.err
	}
}

// statusError is the error of a request that ended without the answer.
func statusError(h wire.Header) error {
	switch h.Status {
	case wire.StatusBusy:
		return &policy.BusyError{After: h.Wait()}
	case wire.StatusRefused:
		return errRefused
	default:
	}
	return fmt.Errorf("peer ended the request: %s", h.Status)
}
