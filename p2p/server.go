package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/p2p/wire"
)

const (
	// sendingTotal is how many blocks are read and sent at once to all peers: 8 MiB
	// of buffers. Bulk has at most half of them.
	sendingTotal = 32
	// sendingPerStream is how many requests of one stream are worked on at once.
	// More would only queue at the stream's writer.
	sendingPerStream = 4
	// frameWrite is how long a peer may take for one frame. Whoever does not read
	// for so long is hung, and holds a place of the semaphore.
	frameWrite = 5 * time.Second
	// maxServe is the longest a request is worked on, whatever patience it claims.
	maxServe = time.Minute
)

// The longest a request may be expected to wait before it is answered BUSY: the
// asker has other peers and the registry, so waiting helps nobody.
const (
	maxQueueUrgent = 50 * time.Millisecond
	maxQueueBulk   = 2 * time.Second
)

// Objects holds small content-addressed objects that peers may read.
type Objects interface {
	// Open returns an object and its size in bytes, or an error wrapping
	// [block.ErrNotFound]. The caller closes it.
	Open(ctx context.Context, digest block.Digest) (ObjectReader, int64, error)
}

// Hints holds what a node can say of a subject that nobody can verify.
type Hints interface {
	// Hint returns the hint with a name, or an error wrapping [block.ErrNotFound].
	Hint(ctx context.Context, name block.Digest) ([]byte, error)
}

// ObjectReader reads an open object.
type ObjectReader interface {
	io.ReaderAt
	io.Closer
}

// server answers the requests of peers from what the node itself holds.
type server struct {
	local   block.Source // may be nil
	objects Objects      // may be nil
	hints   Hints        // may be nil
	sending *semaphore
	counts  *counters
	frames  sync.Pool // of *[]byte, header and payload
}

// serve answers the requests of one stream until it breaks or ctx ends.
func (s *server) serve(ctx context.Context, st stream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ss := &session{
		server: s, stream: st,
		open: make(map[uint64]context.CancelFunc), working: make(chan struct{}, sendingPerStream),
	}
	// A stream that cannot be used any more ends all that is being done for it.
	ss.broken = cancel
	stop := context.AfterFunc(ctx, func() {
		_ = st.Reset() //nolint:errcheck // given up in any case
	})
	defer stop()
	defer ss.wg.Wait()
	defer cancel()
	return ss.read(ctx)
}

// session is the answering end of one stream.
type session struct {
	*server
	stream  stream
	broken  context.CancelFunc
	working chan struct{}
	wg      sync.WaitGroup

	writing sync.Mutex // held while one frame is written

	mu   sync.Mutex // guards everything below
	open map[uint64]context.CancelFunc
}

func (s *session) read(ctx context.Context) error {
	var buf [wire.HeaderSize]byte
	for {
		h, err := wire.Read(s.stream, &buf)
		if err != nil {
			return err
		}
		switch h.Type {
		case wire.TypeCancel:
			s.cancel(h.ID)
		case wire.TypeWant, wire.TypeObject:
			digest, err := wire.ReadDigest(s.stream)
			if err != nil {
				return err
			}
			if err := s.begin(ctx, h, digest); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: type %d is no request", wire.ErrMalformed, h.Type)
		}
	}
}

func (s *session) cancel(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel, ok := s.open[id]; ok {
		cancel()
	}
}

// begin starts to work on a request.
func (s *session) begin(ctx context.Context, h wire.Header, digest block.Digest) error {
	patience := maxServe
	if h.Millis > 0 {
		patience = min(h.Wait(), maxServe)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	s.mu.Lock()
	_, used := s.open[h.ID]
	full := len(s.open) >= wire.MaxOpen
	if !used && !full {
		s.open[h.ID] = cancel
	}
	s.mu.Unlock()
	if used || full {
		cancel()
		return fmt.Errorf("%w: request %d repeats an open one or is one too many", wire.ErrMalformed, h.ID)
	}
	s.wg.Go(func() {
		defer cancel()
		end := s.work(ctx, h, digest)
		s.mu.Lock()
		delete(s.open, h.ID)
		s.mu.Unlock()
		s.counts.served(end.Status)
		s.send(end.Append(nil))
	})
	return nil
}

// work sends what a request asks for and returns the END.
func (s *session) work(ctx context.Context, h wire.Header, digest block.Digest) wire.Header {
	end := wire.Header{Type: wire.TypeEnd, Class: h.Class, ID: h.ID, First: h.First, Count: h.Count, Mask: h.Mask}
	if wait := s.sending.delay(h.Class, 0); wait > maxQueue(h.Class) {
		end.Status, end.Millis = wire.StatusBusy, wire.Millis(wait)
		return end
	}
	select {
	case s.working <- struct{}{}:
		defer func() { <-s.working }()
	case <-ctx.Done():
		end.Status = endStatus(ctx, nil)
		return end
	}
	if h.Type == wire.TypeObject {
		end.Status, end.Size = s.sendObject(ctx, h, digest)
		return end
	}
	end.Mask, end.Status = s.sendBlocks(ctx, h, digest)
	return end
}

func maxQueue(c block.Class) time.Duration {
	if urgent(c) {
		return maxQueueUrgent
	}
	return maxQueueBulk
}

// endStatus says how a request ended that stopped with err or with its context.
func endStatus(ctx context.Context, err error) wire.Status {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return wire.StatusExpired
	case ctx.Err() != nil:
		return wire.StatusCancelled
	case errors.Is(err, block.ErrNotFound):
		return wire.StatusMissing
	case err != nil:
		return wire.StatusFailed
	default:
		return wire.StatusDone
	}
}

// sendBlocks sends the blocks of a WANT one by one, each in its turn by class,
// and returns those it did not send and why.
func (s *session) sendBlocks(ctx context.Context, h wire.Header, layer block.Digest) (uint64, wire.Status) {
	left, status := h.Mask, wire.StatusDone
	for i := range h.Count {
		bit := uint64(1) << i
		if h.Mask&bit == 0 {
			continue
		}
		err := s.sendBlock(ctx, h, block.Key{Layer: layer, Index: h.First + i})
		if err == nil {
			left &^= bit
			continue
		}
		if status = endStatus(ctx, err); status != wire.StatusMissing {
			return left, status
		}
	}
	if left != 0 {
		return left, wire.StatusMissing
	}
	return 0, status
}

func (s *session) sendBlock(ctx context.Context, h wire.Header, k block.Key) error {
	if s.local == nil {
		return block.ErrNotFound
	}
	// A block that is known to be absent takes no place.
	if holder, ok := s.local.(block.Holder); ok && !holder.Has(k) {
		return block.ErrNotFound
	}
	leave, err := s.sending.enter(ctx, h.Class)
	if err != nil {
		return err
	}
	defer leave()
	out := s.frame()
	defer s.frames.Put(out)
	req := block.Request{Range: block.Range{Layer: k.Layer, First: k.Index, Count: 1}, Class: h.Class}
	err = s.local.Fetch(ctx, req, func(got block.Key, data []byte) error {
		if got != k {
			return nil
		}
		if len(data) == 0 || len(data) > wire.MaxPayload {
			return fmt.Errorf("block of %d bytes", len(data))
		}
		header := wire.Header{Type: wire.TypeBlock, Class: h.Class, ID: h.ID, First: k.Index, Count: 1, Length: uint32(len(data))}
		*out = append(header.Append((*out)[:0]), data...)
		return nil
	})
	if err != nil {
		return err
	}
	s.send(*out)
	s.counts.sent[h.Class].Add(uint64(len(*out) - wire.HeaderSize))
	return nil
}

// sendObject sends an object in chunks and returns how that ended, and its size.
func (s *session) sendObject(ctx context.Context, h wire.Header, digest block.Digest) (wire.Status, uint64) {
	r, size, err := s.openObject(ctx, h, digest)
	if err != nil {
		return endStatus(ctx, err), 0
	}
	defer func() { _ = r.Close() }() //nolint:errcheck // it was only read
	if size < 0 || uint64(size) > h.Size || size > MaxObject {
		return wire.StatusRefused, uint64(max(size, 0))
	}
	for i := range block.Count(size) {
		if err := s.sendChunk(ctx, h, r, size, i); err != nil {
			return endStatus(ctx, err), uint64(size)
		}
	}
	return wire.StatusDone, uint64(size)
}

func (s *session) openObject(ctx context.Context, h wire.Header, digest block.Digest) (ObjectReader, int64, error) {
	switch {
	case h.IsHint() && s.hints != nil:
		content, err := s.hints.Hint(ctx, digest)
		if err != nil {
			return nil, 0, err
		}
		return hintReader{bytes.NewReader(content)}, int64(len(content)), nil
	case !h.IsHint() && s.objects != nil:
		return s.objects.Open(ctx, digest)
	default:
		return nil, 0, block.ErrNotFound
	}
}

// hintReader reads a hint as if it was an object.
type hintReader struct{ *bytes.Reader }

func (hintReader) Close() error { return nil }

func (s *session) sendChunk(ctx context.Context, h wire.Header, r io.ReaderAt, size int64, i uint32) error {
	leave, err := s.sending.enter(ctx, h.Class)
	if err != nil {
		return err
	}
	defer leave()
	out := s.frame()
	defer s.frames.Put(out)
	n := block.Length(size, i)
	header := wire.Header{Type: wire.TypeChunk, Class: h.Class, ID: h.ID, First: i, Count: 1, Length: uint32(n), Size: uint64(size)}
	*out = header.Append((*out)[:0])
	if got, err := r.ReadAt((*out)[wire.HeaderSize:wire.HeaderSize+n], int64(i)*block.Size); got < n {
		return fmt.Errorf("reading object: %w", err)
	}
	*out = (*out)[:wire.HeaderSize+n]
	s.send(*out)
	s.counts.objectsSent.Add(uint64(n))
	return nil
}

// frame returns a buffer for a header and a payload, in one piece so that a frame
// is one write.
func (s *server) frame() *[]byte {
	if b, ok := s.frames.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, wire.HeaderSize+wire.MaxPayload)
	return &b
}

// send writes one frame. If that goes wrong the framing is lost, and the stream is
// given up with everything that was going on for it.
func (s *session) send(b []byte) {
	s.writing.Lock()
	defer s.writing.Unlock()
	err := s.stream.SetWriteDeadline(time.Now().Add(frameWrite))
	if err == nil {
		_, err = s.stream.Write(b)
	}
	if err != nil {
		s.broken()
	}
}
