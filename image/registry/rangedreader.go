package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// blobRequests is how many ranges of a blob are in flight where nobody says otherwise.
	blobRequests = 4
	// firstRange is the length of the first ranges, until it is known how fast they come.
	firstRange = 512 << 10
	// rangeTime is how long the link takes for a range: long enough to make the round trip
	// between two requests cheap, and short enough that the beginning of the blob does not
	// wait for what comes later.
	rangeTime = 100 * time.Millisecond
	// cheapAgain is how many bytes may as well be read once more.
	cheapAgain = 8 << 20
	// minRange and maxRange bound the length of a range.
	minRange = 256 << 10
	maxRange = 4 << 20
)

// RangesConfig says how a blob is read in parallel. The zero value has the defaults.
type RangesConfig struct {
	// Requests is the number of ranges in flight; zero means 4.
	Requests int
	// Size is the length of a range in bytes. Zero means what the link brings in 100 ms, from
	// 256 KiB to 4 MiB.
	Size int64
}

// OpenRanges returns a reader of a whole blob of size bytes like [Client.OpenBlob], which has
// several requests in flight. It delivers what has arrived in order, while the rest arrives.
// In memory are at most as many ranges as there are requests. Where ranges are not
// served, or fail, it goes on with one request for the rest.
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
		cfg:        cfg, cancel: cancel, ranges: make(chan *arrivingRange, cfg.Requests-1),
	}
	r.running.Go(func() { r.request(ranging) })
	return r, nil
}

// rangedReader reads a blob in ranges, and what cannot be read so like a blobReader.
type rangedReader struct {
	blobReader

	cfg     RangesConfig
	cancel  context.CancelFunc
	ranges  chan *arrivingRange // in order; what is in it is in flight or has arrived
	current *arrivingRange
	single  bool // the rest is read with one request
	running sync.WaitGroup

	mu      sync.Mutex // guards what follows
	began   time.Time  // when the first answer began
	arrived int64      // bytes since then
}

// request asks for the ranges, the first one alone: its answer shows whether ranges are
// served, and where from.
func (r *rangedReader) request(ctx context.Context) {
	defer close(r.ranges)
	for off := int64(0); off < r.size; {
		a := newArrivingRange(off, min(r.length(), r.size-off))
		select {
		case r.ranges <- a:
		case <-ctx.Done():
			return
		}
		answered := make(chan struct{})
		r.running.Go(func() { r.fetch(ctx, a, answered) })
		if off == 0 {
			<-answered
		}
		off += int64(len(a.data))
	}
}

// length returns how long the next range is to be.
func (r *rangedReader) length() int64 {
	if r.cfg.Size > 0 {
		return r.cfg.Size
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	took := time.Since(r.began)
	if r.arrived < minRange || took <= 0 {
		return firstRange
	}
	return max(minRange, min(maxRange, int64(float64(r.arrived)*rangeTime.Seconds()/took.Seconds())))
}

// fetch reads one range. It closes answered when the answer has begun or has failed.
func (r *rangedReader) fetch(ctx context.Context, a *arrivingRange, answered chan<- struct{}) {
	body, err := r.client.getBlob(ctx, r.repo, r.digest, span{off: a.off, n: int64(len(a.data)), size: r.size})
	r.mu.Lock()
	if r.began.IsZero() {
		r.began = time.Now()
	}
	r.mu.Unlock()
	close(answered)
	if err != nil {
		a.fail(err)
		return
	}
	defer func() {
		if err := body.Close(); err != nil {
			r.client.log.DebugContext(ctx, "closing a blob", "error", err)
		}
	}()
	for {
		n, err := body.Read(a.free())
		r.mu.Lock()
		r.arrived += int64(n)
		r.mu.Unlock()
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
			r.current = nil // it has been read to its end
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

func newArrivingRange(off, n int64) *arrivingRange {
	a := &arrivingRange{off: off, data: make([]byte, n)}
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
