// Package link puts a link with a bandwidth and a delay, or one that fails, between a
// client and a server on loopback. Kernels do not always have a traffic shaper with
// delays, and it needs no privileges.
package link

import (
	"context"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// Config has the limits of a link.
type Config struct {
	// BytesPerSecond limits what the server sends, on all connections together. 0
	// means no limit.
	BytesPerSecond float64
	// RoundTrip is the delay in both directions together.
	RoundTrip time.Duration
}

// Link is a TCP link to a server that is slower or worse than loopback. It ends TCP
// at both sides, so what it delays is what the protocol above sends; making a
// connection takes a round trip as well.
type Link struct {
	// Addr is the address, host:port, to reach the server under.
	Addr string

	limit *rate.Limiter   // of what the server sends, on all connections together
	delay time.Duration   // in each direction
	ctx   context.Context //nolint:containedctx // ends with the test
	wg    sync.WaitGroup

	sent   atomic.Int64
	left   atomic.Int64 // bytes of the server that still get through
	breaks atomic.Bool  // what happens then, see FailAfter
}

// Gigabit is 1 Gbit/s in bytes a second.
const Gigabit = 125e6

const (
	linkChunk = 16 << 10
	linkQueue = 256 // chunks: 4 MiB on the way
)

// New opens a link to a server, given as host:port, until the test ends.
func New(tb testing.TB, server string, cfg Config) *Link {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	l := &Link{Addr: listener.Addr().String(), limit: rate.NewLimiter(rate.Inf, 0), delay: cfg.RoundTrip / 2, ctx: ctx}
	if cfg.BytesPerSecond > 0 {
		l.limit = rate.NewLimiter(rate.Limit(cfg.BytesPerSecond), 16*linkChunk) // timers are no finer than a millisecond
	}
	l.left.Store(math.MaxInt64)
	l.wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := (&net.Dialer{}).DialContext(ctx, "tcp", server)
			if err != nil {
				shut(near)
				continue
			}
			l.join(tb, near, far)
		}
	})
	tb.Cleanup(func() {
		shut(listener)
		cancel()
		l.wg.Wait()
	})
	return l
}

// shut closes what is given up in any case.
func shut(c interface{ Close() error }) {
	_ = c.Close() //nolint:errcheck // see above
}

// join passes bytes between two connections until one breaks.
func (l *Link) join(tb testing.TB, near, far net.Conn) {
	tb.Helper()
	if tcp, ok := far.(*net.TCPConn); ok {
		// What waits in front of the link is as much as a switch would hold.
		if err := tcp.SetReadBuffer(256 << 10); err != nil {
			tb.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(l.ctx)
	context.AfterFunc(ctx, func() {
		shut(near)
		shut(far)
	})
	opened := time.Now().Add(2 * l.delay)
	l.wg.Go(func() { l.pass(ctx, cancel, near, far, true) })
	l.wg.Go(func() {
		// What the client says first arrives after the round trip of the handshake.
		select {
		case <-time.After(time.Until(opened)):
		case <-ctx.Done():
		}
		l.pass(ctx, cancel, far, near, false)
	})
}

type chunk struct {
	data []byte
	due  time.Time
}

func (l *Link) pass(ctx context.Context, cancel func(), to, from net.Conn, limited bool) {
	queue := make(chan chunk, linkQueue)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		l.deliver(ctx, to, queue, limited)
	})
	for ctx.Err() == nil {
		buf := make([]byte, linkChunk)
		n, err := from.Read(buf)
		if err == nil && limited {
			err = l.limit.WaitN(ctx, n)
		}
		if err != nil {
			break
		}
		select {
		case queue <- chunk{buf[:n], time.Now().Add(l.delay)}:
		case <-ctx.Done():
		}
	}
	close(queue)
	wg.Wait()
}

// deliver writes chunks when they are due.
func (l *Link) deliver(ctx context.Context, to net.Conn, queue <-chan chunk, limited bool) {
	for c := range queue {
		if wait := time.Until(c.due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
		whole := true
		if limited {
			c.data, whole = l.filter(ctx, c.data)
			l.sent.Add(int64(len(c.data)))
		}
		if _, err := to.Write(c.data); err != nil || !whole {
			return
		}
	}
}

// filter returns the part of data that still gets through, and whether that is all
// of it. If it is not and the link hangs, it returns when the connection ends.
func (l *Link) filter(ctx context.Context, data []byte) ([]byte, bool) {
	left := l.left.Add(-int64(len(data)))
	if left >= 0 {
		return data, true
	}
	if !l.breaks.Load() {
		<-ctx.Done()
	}
	return data[:max(int64(len(data))+left, 0)], false
}

// Sent returns how many bytes of the server have got through.
func (l *Link) Sent() int64 { return l.sent.Load() }

// FailAfter lets n more bytes of the server through; then the link breaks its
// connections, or keeps them and hangs.
func (l *Link) FailAfter(n int64, breaks bool) {
	l.breaks.Store(breaks)
	l.left.Store(n)
}
