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
	Status        int    // 0 before there is an answer, and when there is none
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
	requests []*Request
}

// Requests returns the requests that arrived since the start or the last
// [Registry.ResetRequests]. A client that has read an answer finds its request
// here; requests still being answered have the status and bytes sent so far.
func (r *Registry) Requests() []Request {
	r.recorder.mu.Lock()
	defer r.recorder.mu.Unlock()
	out := make([]Request, len(r.recorder.requests))
	for i, req := range r.recorder.requests {
		out[i] = *req
	}
	return out
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
		entry := &Request{
			Server: server, Method: req.Method, Path: req.URL.Path,
			Range: req.Header.Get("Range"), Authorization: req.Header.Get("Authorization"),
		}
		rec.mu.Lock()
		rec.requests = append(rec.requests, entry)
		rec.mu.Unlock()
		next.ServeHTTP(&recordingWriter{ResponseWriter: w, recorder: rec, entry: entry}, req)
	})
}

type recordingWriter struct {
	http.ResponseWriter
	recorder *recorder
	entry    *Request
}

func (w *recordingWriter) record(status, n int) {
	w.recorder.mu.Lock()
	defer w.recorder.mu.Unlock()
	if w.entry.Status == 0 {
		w.entry.Status = status
	}
	w.entry.Bytes += int64(n)
}

// WriteHeader implements http.ResponseWriter.
func (w *recordingWriter) WriteHeader(status int) {
	w.record(status, 0)
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter. What is written is recorded first, so that
// whoever has received it finds it recorded.
func (w *recordingWriter) Write(p []byte) (int, error) {
	w.record(http.StatusOK, len(p))
	n, err := w.ResponseWriter.Write(p)
	w.record(http.StatusOK, n-len(p))
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recordingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
