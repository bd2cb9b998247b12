package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

const (
	// registryHost names the registry that images in files seem to be in. The domain
	// "invalid" is reserved: nobody else has it.
	registryHost = "files.brisk.invalid"
	// headerTimeout bounds how long a request may take to begin.
	headerTimeout = 30 * time.Second
)

// Host serves images in files. Its methods may be called concurrently.
type Host struct {
	server *http.Server
	conns  *pipeListener
	files  http.RoundTripper // to what is served here
	next   http.RoundTripper // to everything else
	ended  chan struct{}

	mu    sync.Mutex
	opens []*opened
}

// opened is an open layout.
type opened struct {
	repository string // as the registry calls it
	text       string // as the user calls it, without tag
	layout     *layout
}

// NewHost returns a host. Requests that are not for images in files go to next. Close it.
func NewHost(next http.RoundTripper) *Host {
	h := &Host{conns: newPipeListener(), next: next, ended: make(chan struct{})}
	h.files = &http.Transport{DialContext: h.conns.dial, DisableCompression: true}
	h.server = &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout, ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		defer close(h.ended)
		//nolint:errcheck // ends with Close, and cannot fail before: accepting from a channel does not
		_ = h.server.Serve(h.conns)
	}()
	return h
}

// Serves reports whether a registry, named by host and port, is this one. It is spoken to without
// TLS.
func (h *Host) Serves(host string) bool { return host == registryHost }

// RoundTrip implements [http.RoundTripper].
func (h *Host) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Hostname() == registryHost {
		return h.files.RoundTrip(r)
	}
	return h.next.RoundTrip(r)
}

// CloseIdleConnections is for those who close clients.
func (h *Host) CloseIdleConnections() {
	if t, ok := h.next.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Open opens what text names, and returns the reference it has in the registry. What is only read
// must be there.
func (h *Host) Open(text string, write bool) (name.Reference, error) {
	kind, rest, ok := split(text)
	if !ok {
		return nil, fmt.Errorf("%.300q does not name an image in a file", text)
	}
	path, tag := pathAndTag(rest)
	if path == "" {
		return nil, fmt.Errorf("%.300q names no file", text)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.opens {
		// Two uses of an archive would not see what the other writes.
		if o.text == string(kind)+":"+path && o.layout.write && kind != kindDocker {
			if tag, err := o.layout.choose(tag); err == nil {
				return name.NewTag(registryHost+"/"+o.repository+":"+tag, name.Insecure)
			}
		}
	}
	l, err := open(kind, path, tag, write)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", text, err)
	}
	repository := "image"
	if n := len(h.opens); n > 0 {
		repository += strconv.Itoa(n)
	}
	ref, err := name.NewTag(registryHost+"/"+repository+":"+l.tag, name.Insecure)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", text, err), l.store.discard())
	}
	h.opens = append(h.opens, &opened{repository: repository, text: string(kind) + ":" + path, layout: l})
	return ref, nil
}

// Text replaces the names that images in files have here, wherever they occur, by those the user
// knows them by.
func (h *Host) Text(s string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return registryNames().ReplaceAllStringFunc(s, func(found string) string {
		for _, o := range h.opens {
			if found == registryHost+"/"+o.repository {
				return o.text
			}
		}
		return found
	})
}

func registryNames() *regexp.Regexp {
	return regexp.MustCompile(regexp.QuoteMeta(registryHost) + `/image[0-9]*`)
}

// Close ends all use. If keep is set, archives that have changed are written; otherwise they
// stay as they were. Changes of directories are there already.
func (h *Host) Close(ctx context.Context, keep bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	errs := []error{h.server.Shutdown(ctx)}
	if t, ok := h.files.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
	errs = append(errs, h.server.Close(), h.conns.Close())
	<-h.ended
	for _, o := range h.opens {
		errs = append(errs, o.layout.uploads.discard())
		if !keep {
			errs = append(errs, o.layout.store.discard())
			continue
		}
		if err := o.layout.store.finish(ctx); err != nil {
			errs = append(errs, fmt.Errorf("writing %s: %w", o.text, err))
		}
	}
	h.opens = nil
	return errors.Join(errs...)
}

// ServeHTTP implements [http.Handler].
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	repository, rest, _ := strings.Cut(path, "/")
	if ok && path == "" {
		w.WriteHeader(http.StatusOK)
		return
	}
	h.mu.Lock()
	var found *layout
	for _, o := range h.opens {
		if o.repository == repository {
			found = o.layout
		}
	}
	h.mu.Unlock()
	if found == nil {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", "no such image in a file")
		return
	}
	found.serve(w, r, repository, rest)
}

// pipeListener accepts connections that are pipes in memory.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Accept implements [net.Listener].
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements [net.Listener].
func (*pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: registryHost, Net: "pipe"} }
