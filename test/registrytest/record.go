package registrytest

import (
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Request is one request as a registry saw and answered it.
type Request struct {
	Server        string // "registry", or "storage" for what redirects lead to
	Method        string
	Path          string
	Range         string // the Range header
	Authorization string // the Authorization header
	Status        int    // 0 when the connection was cut before an answer
	Bytes         int64  // of the body sent
}

// Blob reports whether the request read a blob.
func (r Request) Blob() bool {
	return r.Method == http.MethodGet && strings.Contains(r.Path, "/blobs/sha256:")
}

// Write reports whether the request changed the registry.
func (r Request) Write() bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead
}

type recorder struct {
	mu       sync.Mutex
	requests []Request
}

// Requests returns the requests answered since the start or the last
// [Registry.ResetRequests], in the order in which the answers ended.
func (r *Registry) Requests() []Request {
	r.recorder.mu.Lock()
	defer r.recorder.mu.Unlock()
	return slices.Clone(r.recorder.requests)
}

// BlobRequests is Requests without everything that did not read a blob.
func (r *Registry) BlobRequests() []Request {
	return slices.DeleteFunc(r.Requests(), func(req Request) bool { return !req.Blob() })
}

// ResetRequests forgets the requests recorded so far.
func (r *Registry) ResetRequests() {
	r.recorder.mu.Lock()
	defer r.recorder.mu.Unlock()
	r.recorder.requests = nil
}

func (rec *recorder) handler(server string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		counted := &countingWriter{ResponseWriter: w}
		entry := Request{
			Server: server, Method: req.Method, Path: req.URL.Path,
			Range: req.Header.Get("Range"), Authorization: req.Header.Get("Authorization"),
		}
		// Deferred, because faults end requests by panicking.
		defer func() {
			entry.Status, entry.Bytes = counted.status, counted.bytes
			rec.mu.Lock()
			defer rec.mu.Unlock()
			rec.requests = append(rec.requests, entry)
		}()
		next.ServeHTTP(counted, req)
	})
}

type countingWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader implements http.ResponseWriter.
func (w *countingWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *countingWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
