package p2p_test

import (
	"context"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
)

// link is a TCP link to a server that is slower or worse than loopback. It ends
// TCP at both sides, so what it delays is what the protocol above sends.
type link struct {
	port  string
	limit *rate.Limiter   // of what the server sends, on all connections together
	delay time.Duration   // in each direction
	ctx   context.Context //nolint:containedctx // ends with the test
	wg    sync.WaitGroup

	left   atomic.Int64 // bytes of the server that still get through
	breaks atomic.Bool  // what happens then, see failAfter
}

const (
	gigabit   = 125e6 // in bytes a second
	linkChunk = 16 << 10
	linkQueue = 256 // chunks: 4 MiB on the way
)

// newLink opens a link to the port of a server on loopback. A bandwidth of 0, in
// bytes a second, is unlimited.
func newLink(tb testing.TB, server string, bandwidth float64, delay time.Duration) *link {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	l := &link{limit: rate.NewLimiter(rate.Inf, 0), delay: delay, ctx: ctx}
	if bandwidth > 0 {
		l.limit = rate.NewLimiter(rate.Limit(bandwidth), 16*linkChunk) // timers are no finer than a millisecond
	}
	l.left.Store(math.MaxInt64)
	_, l.port, _ = net.SplitHostPort(listener.Addr().String()) //nolint:errcheck // an address of a listener
	l.wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+server)
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
func (l *link) join(tb testing.TB, near, far net.Conn) {
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
	l.wg.Go(func() { l.pass(ctx, cancel, near, far, true) })
	l.wg.Go(func() { l.pass(ctx, cancel, far, near, false) })
}

type chunk struct {
	data []byte
	due  time.Time
}

func (l *link) pass(ctx context.Context, cancel func(), to, from net.Conn, limited bool) {
	queue := make(chan chunk, linkQueue)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
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
			}
			if _, err := to.Write(c.data); err != nil || !whole {
				return
			}
		}
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

// filter returns the part of data that still gets through, and whether that is all
// of it. If it is not and the link hangs, it returns when the connection ends.
func (l *link) filter(ctx context.Context, data []byte) ([]byte, bool) {
	left := l.left.Add(-int64(len(data)))
	if left >= 0 {
		return data, true
	}
	if !l.breaks.Load() {
		<-ctx.Done()
	}
	return data[:max(int64(len(data))+left, 0)], false
}

// failAfter lets n more bytes of the server through; then the link breaks its
// connections, or keeps them and hangs.
func (l *link) failAfter(n int64, breaks bool) {
	l.breaks.Store(breaks)
	l.left.Store(n)
}

// reach lets all nodes but the first reach the first one through the port that
// via returns for its own, and nobody else anybody. It returns once they do.
func reach(tb testing.TB, known, behind *p2p.List, via func(port string) string, nodes ...*p2p.Node) {
	tb.Helper()
	peer := func(id, port string) p2p.Peer {
		p, err := p2p.ParsePeer(id + "@/ip4/127.0.0.1/tcp/" + port)
		if err != nil {
			tb.Fatal(err)
		}
		return p
	}
	addr := nodes[0].Addrs()[0]
	server := peer(nodes[0].ID(), via(addr[strings.LastIndex(addr, "/")+1:]))
	var others []p2p.Peer
	for _, n := range nodes[1:] {
		others = append(others, peer(n.ID(), "1")) // nobody listens there: the server does not dial
	}
	known.Set(others)
	behind.Set([]p2p.Peer{server})
	for _, n := range nodes[1:] {
		p2ptest.AwaitConnected(tb, n, 1)
	}
}
