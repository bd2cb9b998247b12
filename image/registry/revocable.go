package registry

import (
	"errors"
	"io"
	"sync"
)

var errAnswered = errors.New("the request has been answered")

// revocable is the bytes of a request that are used for something else after its answer. The
// transport may go on to read a body once it has returned, namely when a registry answers
// before it has got all of it (see [net/http.RoundTripper]).
type revocable struct {
	mu      sync.Mutex // held while bytes are read
	revoked bool
}

// body returns a body that reads from r until revoke is called.
func (v *revocable) body(r io.Reader) io.ReadCloser {
	return io.NopCloser(&revocableReader{of: v, r: r})
}

// revoke ends all bodies: none of them is read any more when it returns.
func (v *revocable) revoke() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revoked = true
}

type revocableReader struct {
	of *revocable
	r  io.Reader
}

func (r *revocableReader) Read(p []byte) (int, error) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.of.revoked {
		return 0, errAnswered
	}
	return r.r.Read(p)
}
