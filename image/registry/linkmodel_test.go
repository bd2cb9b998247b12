package registry_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	modelSegment = 16 << 10
	// modelFirst is what a new TCP connection sends before anything is acknowledged (RFC 6928), and
	// modelReceive how far it may be ahead of who reads.
	modelFirst   = 10 * 1460
	modelReceive = 6 << 20
)

// linkModel is a registry of one blob behind a link, in the time of a synctest bubble: what it takes
// depends on the requests alone, however busy the machine is. A connection costs a round trip, starts
// slowly as TCP does, and stays for the next request. Connections share the rate equally.
type linkModel struct {
	content   []byte
	rate      float64 // bytes a second
	roundTrip time.Duration
	first     int // bytes that a new connection sends before anything is acknowledged
	kick      chan struct{}

	mu       sync.Mutex // guards what follows
	idle     []*modelConn
	sending  []*modelConn // in turn
	requests int
	opened   int // connections
	running  int
	most     int // requests at a time
}

// modelConn is a connection, and the answer that is on it.
type modelConn struct {
	link     *linkModel
	window   int // that may be on its way
	flying   int
	unsent   []byte
	received []byte
	left     int // until the answer has been read
	arrived  chan struct{}
	closed   bool
}

func newLinkModel(content []byte, rate float64, roundTrip time.Duration) *linkModel {
	return &linkModel{content: content, rate: rate, roundTrip: roundTrip, first: modelFirst, kick: make(chan struct{}, 1)}
}

// run sends until ctx ends.
func (l *linkModel) run(ctx context.Context) {
	for {
		c, segment := l.next()
		if c == nil {
			select {
			case <-l.kick:
				continue
			case <-ctx.Done():
				return
			}
		}
		<-time.After(time.Duration(float64(len(segment)) / l.rate * float64(time.Second)))
		time.AfterFunc(l.roundTrip/2, func() { c.receive(segment) })
		time.AfterFunc(l.roundTrip, func() { c.acknowledge(len(segment)) })
	}
}

func (l *linkModel) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// next returns the next segment to send.
func (l *linkModel) next() (*modelConn, []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range l.sending {
		c := l.sending[0]
		l.sending = l.sending[1:]
		if c.closed || len(c.unsent) == 0 {
			continue
		}
		l.sending = append(l.sending, c)
		n := min(modelSegment, len(c.unsent), c.window-c.flying, modelReceive-len(c.received)-c.flying)
		if n <= 0 {
			continue
		}
		segment := c.unsent[:n]
		c.unsent, c.flying = c.unsent[n:], c.flying+n
		return c, segment
	}
	return nil, nil
}

func (c *modelConn) receive(segment []byte) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.received = append(c.received, segment...)
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

func (c *modelConn) acknowledge(n int) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.flying -= n
	c.window += n
	c.link.wake()
}

// RoundTrip implements http.RoundTripper.
func (l *linkModel) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header),
		Request: req, Body: http.NoBody,
	}
	var first, last int
	if n, _ := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &first, &last); n < 2 { //nolint:errcheck // n says it
		return resp, nil // of what is asked before: how the registry wants to be spoken to
	}
	c := l.connection()
	<-time.After(l.roundTrip / 2)
	resp.StatusCode, resp.ContentLength = http.StatusPartialContent, int64(last+1-first)
	resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(l.content)))
	l.mu.Lock()
	c.unsent, c.left = l.content[first:last+1], last+1-first
	l.sending = append(l.sending, c)
	l.wake()
	l.mu.Unlock()
	<-time.After(l.roundTrip / 2)
	resp.Body = c
	return resp, nil
}

// connection returns an idle connection or a new one.
func (l *linkModel) connection() *modelConn {
	l.mu.Lock()
	l.requests++
	l.running++
	l.most = max(l.most, l.running)
	if n := len(l.idle); n > 0 {
		c := l.idle[n-1]
		l.idle = l.idle[:n-1]
		l.mu.Unlock()
		return c
	}
	l.opened++
	l.mu.Unlock()
	<-time.After(l.roundTrip)
	return &modelConn{link: l, window: l.first, arrived: make(chan struct{}, 1)}
}

// Read implements io.Reader.
func (c *modelConn) Read(p []byte) (int, error) {
	for {
		c.link.mu.Lock()
		n := copy(p, c.received)
		c.received = c.received[n:]
		c.left -= n
		left := c.left
		c.link.wake()
		c.link.mu.Unlock()
		switch {
		case n > 0:
			return n, nil
		case left == 0:
			return 0, io.EOF
		}
		<-c.arrived
	}
}

// Close implements io.Closer.
func (c *modelConn) Close() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return nil
	}
	c.link.running--
	if c.left > 0 {
		c.closed = true
		return nil
	}
	c.link.idle = append(c.link.idle, c)
	return nil
}
