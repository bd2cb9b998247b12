package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// blobRequests is how many ranges of a blob are in flight at most where nobody says otherwise:
	// connections start slowly, and together faster.
	blobRequests = 8
	// unknownRequests is how many of them are sent before an answer has shown that ranges are served.
	unknownRequests = 4
	// cheapAgain is how many bytes may as well be read once more.
	cheapAgain = 8 << 20
	// maxUnread bounds the bytes that are in flight or wait to be read.
	maxUnread = 16 << 20
)

// RangesConfig configures the parallel reading of a blob. The zero value has the defaults.
type RangesConfig struct {
	// Requests is the most ranges in flight; zero means 8.
	Requests int
	// Size is the length of a range in bytes. Zero means a part of what is to be in flight, from
	// 256 KiB to 4 MiB.
	Size int64
}

// OpenRanges returns a reader of a whole blob of size bytes like [Client.OpenBlob], which has
// several requests in flight: as many as it takes for the link to be full, and not many more, since
// what arrives together delays the beginning of the blob. It delivers what has arrived in order,
// while the rest arrives. At most 16 MiB are in memory, or as many ranges as there are requests if
// their length is given. Where ranges are not served, or fail, it goes on with one request for
// the rest.
func (c *Client) OpenRanges(ctx context.Context, repo name.Repository, digest block.Digest, size int64, cfg RangesConfig) (io.ReadCloser, error) {
	if size < 0 {
		return nil, fmt.Errorf("reading blob %s from %s: %w: %d bytes", digest.Short(), repo, ErrInvalid, size)
	}
	if cfg.Requests <= 0 {
		cfg.Requests = blobRequests
	}
	ranging, cancel := context.WithCancel(ctx)
	r := &rangedReader{
		blobReader: blobReader{ctx: ctx, client: c, repo: repo, digest: digest, size: size},
		cfg:        cfg, known: c.servesRanges(repo), cancel: cancel, ranges: make(chan *arrivingRange, size/firstRange+1), changed: make(chan struct{}, 1),
	}
	r.running.Go(func() { r.request(ranging) })
	return r, nil
}

// rangedReader reads a blob in ranges, and what cannot be read so like a blobReader.
type rangedReader struct {
	blobReader

	cfg     RangesConfig
	known   bool // that ranges are served
	cancel  context.CancelFunc
	ranges  chan *arrivingRange // in order; what is in it is in flight or has arrived
	changed chan struct{}       // holds a token when another range may be asked for
	current *arrivingRange
	single  bool // the rest is read with one request
	running sync.WaitGroup

	mu       sync.Mutex // guards what follows
	flow     rangeFlow
	requests int   // in flight
	inFlight int64 // bytes of them that have not arrived
	unread   int64 // bytes that are in flight or have not been read
	free     [][]byte
}

// request asks for the ranges.
func (r *rangedReader) request(ctx context.Context) {
	defer close(r.ranges)
	for off := int64(0); off < r.size; {
		a := r.next(off)
		if a == nil {
			select {
			case <-r.changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case r.ranges <- a:
		case <-ctx.Done():
			return
		}
		r.running.Go(func() { r.fetch(ctx, a) })
		off += int64(len(a.data))
	}
}

// next returns the range from off on, or nil if enough is in flight.
func (r *rangedReader) next(off int64) *arrivingRange {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, unread := r.cfg.Size, int64(r.cfg.Requests)*r.cfg.Size
	if n == 0 {
		n, unread = r.flow.length(), maxUnread
	}
	requests := r.cfg.Requests
	if !r.flow.answered && !r.known {
		requests = min(requests, unknownRequests)
	}
	n = min(n, r.size-off)
	switch {
	case r.requests == 0 && r.unread+n <= unread:
	case r.requests >= requests, r.unread+n > unread, r.cfg.Size == 0 && r.inFlight+n > r.flow.window():
		return nil
	}
	r.requests, r.inFlight, r.unread = r.requests+1, r.inFlight+n, r.unread+n
	return newArrivingRange(off, r.bufferLocked(n))
}

// bufferLocked returns n bytes, of a range that has been read if possible.
func (r *rangedReader) bufferLocked(n int64) []byte {
	for i, b := range r.free {
		if int64(cap(b)) >= n {
			r.free = slices.Delete(r.free, i, i+1)
			return b[:n]
		}
	}
	r.free = nil // they have become too short
	return make([]byte, n)
}

// change lets request look.
func (r *rangedReader) change() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// fetch reads one range.
func (r *rangedReader) fetch(ctx context.Context, a *arrivingRange) {
	left, sent := int64(len(a.data)), time.Now()
	defer func() {
		r.mu.Lock()
		r.requests, r.inFlight = r.requests-1, r.inFlight-left
		r.mu.Unlock()
		r.change()
	}()
	body, err := r.client.getBlob(ctx, r.repo, r.digest, span{off: a.off, n: left, size: r.size})
	if err != nil {
		a.fail(err)
		return
	}
	r.mu.Lock()
	r.flow.answer(time.Now(), time.Since(sent))
	r.mu.Unlock()
	r.change()
	defer func() {
		if err := body.Close(); err != nil {
			r.client.log.DebugContext(ctx, "closing a blob", "error", err)
		}
	}()
	for {
		n, err := body.Read(a.free())
		left -= int64(n)
		r.mu.Lock()
		r.inFlight -= int64(n)
		r.flow.add(time.Now(), n)
		r.mu.Unlock()
		r.change()
		if a.add(n) {
			return
		}
		if err != nil {
			a.fail(err)
			return
		}
	}
}

// Read implements io.Reader.
func (r *rangedReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for !r.single {
		if r.off == r.size {
			return 0, io.EOF
		}
		if r.current == nil {
			r.current = <-r.ranges // there is one, or the context has ended
		}
		if r.current == nil {
			return 0, fmt.Errorf("reading blob %s from %s: %w", r.digest.Short(), r.repo, context.Cause(r.ctx))
		}
		n, err := r.current.read(p)
		r.off += int64(n)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			r.recycle() // it has been read to its end
		default:
			r.client.log.DebugContext(r.ctx, "reading the rest of a blob with one request", "repository", r.repo.String(), "error", err)
			r.single = true
			// Some registries fail only at ranges.
			r.unranged = errors.Is(err, ErrNoRanges) || r.off <= cheapAgain
			r.drop()
		}
	}
	return r.blobReader.Read(p)
}

// recycle gives back the buffer of the range that has been read.
func (r *rangedReader) recycle() {
	r.mu.Lock()
	r.unread -= int64(len(r.current.data))
	r.free = append(r.free, r.current.data)
	r.mu.Unlock()
	r.current = nil
	r.change()
}

// drop ends the requests for ranges.
func (r *rangedReader) drop() {
	r.cancel()
	for range r.ranges { // what is in there is not wanted any more
	}
	r.running.Wait()
}

// Close implements io.Closer.
func (r *rangedReader) Close() error {
	r.drop()
	return r.blobReader.Close()
}

// arrivingRange is a range of a blob, read by one goroutine while another one fills it.
type arrivingRange struct {
	off  int64
	data []byte
	done int // bytes that have been read

	mu     sync.Mutex // guards what follows
	moved  *sync.Cond
	filled int
	err    error
}

func newArrivingRange(off int64, data []byte) *arrivingRange {
	a := &arrivingRange{off: off, data: data}
	a.moved = sync.NewCond(&a.mu)
	return a
}

// free returns where the next bytes go.
func (a *arrivingRange) free() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.data[a.filled:]
}

// add says that n bytes more are there, and reports whether that is all.
func (a *arrivingRange) add(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.filled += n
	a.moved.Broadcast()
	return a.filled == len(a.data)
}

func (a *arrivingRange) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
	a.moved.Broadcast()
}

// read waits for bytes. After the last one it returns 0 and no error.
func (a *arrivingRange) read(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		switch {
		case a.done < a.filled:
			n := copy(p, a.data[a.done:a.filled])
			a.done += n
			return n, nil
		case a.done == len(a.data):
			return 0, nil
		case a.err != nil:
			return 0, a.err
		}
		a.moved.Wait()
	}
}
