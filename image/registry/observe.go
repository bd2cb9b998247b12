package registry

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// Exchange is a request that has ended, and its answer.
type Exchange struct {
	Began     time.Time
	FirstByte time.Duration // until the head of the answer, or an error
	Took      time.Duration // until its body was read or given up
	Host      string
	Path      string // without the query, in which there may be a signature
	Range     string // as in the request, empty for all
	Status    int    // 0 without an answer
	Bytes     int64  // of the body, as far as it was read
}

// observe returns a transport that tells of its requests.
func observe(next http.RoundTripper, tell func(Exchange)) http.RoundTripper {
	if tell == nil {
		return next
	}
	return &observed{next: next, tell: tell}
}

type observed struct {
	next http.RoundTripper
	tell func(Exchange)
}

// RoundTrip implements http.RoundTripper.
func (o *observed) RoundTrip(req *http.Request) (*http.Response, error) {
	e := Exchange{Began: time.Now(), Host: req.URL.Host, Path: req.URL.Path, Range: req.Header.Get("Range")}
	resp, err := o.next.RoundTrip(req)
	e.FirstByte = time.Since(e.Began)
	if err != nil {
		e.Took = e.FirstByte
		o.tell(e)
		return nil, err
	}
	e.Status = resp.StatusCode
	resp.Body = &observedBody{ReadCloser: resp.Body, exchange: e, tell: o.tell}
	return resp, nil
}

// observedBody tells of its request once, at its end.
type observedBody struct {
	io.ReadCloser
	tell func(Exchange)
	once sync.Once

	mu       sync.Mutex // bodies may be closed while they are read
	exchange Exchange
}

// Read implements io.Reader.
func (b *observedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	b.exchange.Bytes += int64(n)
	b.mu.Unlock()
	if err != nil {
		b.end()
	}
	return n, err
}

// Close implements io.Closer.
func (b *observedBody) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

func (b *observedBody) end() {
	b.once.Do(func() {
		b.mu.Lock()
		e := b.exchange
		b.mu.Unlock()
		e.Took = time.Since(e.Began)
		b.tell(e)
	})
}
