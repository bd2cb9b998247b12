package registrytest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
)

// storage plays the object storage behind a registry: it serves a blob to
// whoever has a signed URL, and refuses registry credentials as S3 does.
type storage struct {
	inner  http.Handler
	server *httptest.Server

	mu     sync.Mutex
	serial int
	valid  map[string]bool
	given  int
}

// ExpireRedirects makes every signed URL given so far invalid.
func (r *Registry) ExpireRedirects() {
	r.storage.mu.Lock()
	defer r.storage.mu.Unlock()
	clear(r.storage.valid)
}

// RedirectsIssued counts the signed URLs given so far.
func (r *Registry) RedirectsIssued() int {
	r.storage.mu.Lock()
	defer r.storage.mu.Unlock()
	return r.storage.given
}

func (s *storage) redirecting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !isBlobGet(req) {
			next.ServeHTTP(w, req)
			return
		}
		target := s.server.URL + req.URL.Path + "?" + url.Values{"signature": {s.sign()}}.Encode()
		http.Redirect(w, req, target, http.StatusTemporaryRedirect) //nolint:gosec // the host is the storage's own
	})
}

func (s *storage) sign() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.valid == nil {
		s.valid = make(map[string]bool)
	}
	s.serial++
	s.given++
	signature := fmt.Sprintf("signature-%d", s.serial)
	s.valid[signature] = true
	return signature
}

// ServeHTTP implements http.Handler.
func (s *storage) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Header.Get("Authorization") != "" {
		http.Error(w, "only one authentication mechanism is allowed", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	ok := s.valid[req.URL.Query().Get("signature")]
	s.mu.Unlock()
	if !ok {
		http.Error(w, "the signature has expired", http.StatusForbidden)
		return
	}
	s.inner.ServeHTTP(w, req)
}
