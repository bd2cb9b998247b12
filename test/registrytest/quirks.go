package registrytest

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Proxy is a server of its own in front of a registry, as companies have them. What it is asked
// it asks the registry, and a [Fault] changes the answers.
type Proxy struct {
	addr string

	mu    sync.Mutex
	fault Fault
}

// NewProxy starts a proxy that ends with the test. A nil fault changes nothing.
func NewProxy(tb testing.TB, r *Registry, fault Fault) *Proxy {
	tb.Helper()
	target, err := url.Parse("http://" + r.Addr())
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	transport := &http.Transport{DisableCompression: true}
	forward := &httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.SetURL(target) },
		Transport: transport,
		// Clients that give up are no news.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p := &Proxy{fault: fault}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if fault := p.current(); fault != nil && isBlobGet(req) {
			fault(w, req, forward)
			return
		}
		forward.ServeHTTP(w, req)
	}))
	p.addr = strings.TrimPrefix(server.URL, "http://")
	tb.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	return p
}

// Addr returns host and port of the proxy, to be used in place of those of the registry.
func (p *Proxy) Addr() string { return p.addr }

// Set changes what the proxy does from now on.
func (p *Proxy) Set(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

func (p *Proxy) current() Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault
}

// Ranged reports whether a request is for a range of a blob.
func Ranged(r *http.Request) bool { return isBlobGet(r) && r.Header.Get("Range") != "" }

// OnRanges is a fault that only requests for ranges meet.
func OnRanges(fault Fault) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if Ranged(r) {
			fault(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// CapRange answers a ranged read with n bytes of it at most, and says so.
func CapRange(n int64) Fault {
	return rewriteRange(func(first, last int64) (int64, int64) { return first, min(last, first+n-1) })
}

// AlignRange answers a ranged read with the parts of n bytes that hold it, as caches do that
// keep blobs in parts.
func AlignRange(n int64) Fault {
	return rewriteRange(func(first, last int64) (int64, int64) { return first / n * n, (last/n+1)*n - 1 })
}

func rewriteRange(change func(first, last int64) (int64, int64)) Fault {
	return OnRanges(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var first, last int64
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		first, last = change(first, last)
		r = r.Clone(r.Context())
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, last))
		next.ServeHTTP(w, r)
	})
}

// Multipart answers a ranged read as if several ranges had been asked for.
func Multipart() Fault {
	return OnRanges(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		var body bytes.Buffer
		parts := multipart.NewWriter(&body)
		part, err := parts.CreatePart(textproto.MIMEHeader{
			"Content-Range": answer.Header()["Content-Range"], "Content-Type": {"application/octet-stream"},
		})
		if err == nil {
			_, err = part.Write(answer.Body.Bytes())
		}
		if err == nil {
			err = parts.Close()
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "multipart/byteranges; boundary="+parts.Boundary())
		w.WriteHeader(http.StatusPartialContent)
		send(w, body.Bytes())
	})
}

// Recompress compresses answers on their way, whatever the client accepts. Ranges it answers with
// what is left of it: the whole blob if whole is set, else the compressed range.
func Recompress(encoding string, whole bool) Fault {
	var bodies compressed
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if whole {
			r = r.Clone(r.Context())
			r.Header.Del("Range")
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		header := w.Header()
		maps.Copy(header, answer.Header())
		header.Set("Content-Encoding", encoding)
		header.Del("Content-Length")
		w.WriteHeader(answer.Code)
		if err := http.NewResponseController(w).Flush(); err != nil { // what compresses on the way does not wait for the end
			panic(http.ErrAbortHandler)
		}
		send(w, bodies.of(encoding, answer.Body.Bytes()))
	}
}

// compressed are bodies by the digest of what was compressed: tests ask for the same whole blob
// very often, and compressing is slow under the race detector.
type compressed struct {
	mu     sync.Mutex
	bodies map[[sha256.Size]byte][]byte
}

func (c *compressed) of(encoding string, data []byte) []byte {
	digest := sha256.Sum256(data)
	c.mu.Lock()
	defer c.mu.Unlock()
	if body, ok := c.bodies[digest]; ok {
		return body
	}
	if c.bodies == nil {
		c.bodies = make(map[[sha256.Size]byte][]byte)
	}
	c.bodies[digest] = compress(encoding, data)
	return c.bodies[digest]
}

func compress(encoding string, data []byte) []byte {
	var body bytes.Buffer
	var w io.WriteCloser
	var err error
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&body)
	case "deflate":
		w, err = flate.NewWriter(&body, flate.DefaultCompression)
	case "zstd":
		w, err = zstd.NewWriter(&body, zstd.WithEncoderConcurrency(1))
	default:
		err = fmt.Errorf("unknown encoding %q", encoding)
	}
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
	return body.Bytes()
}

// LabelEncoding says of the bytes that they are encoded, which they are not, as object stores do
// with what was stored under such a label.
func LabelEncoding(encoding string) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&editor{ResponseWriter: w, header: func(h http.Header) { h.Set("Content-Encoding", encoding) }}, r)
	}
}

// UnitCase writes the unit of ranges in answers with a capital letter.
func UnitCase() Fault {
	return OnRanges(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&editor{ResponseWriter: w, header: func(h http.Header) {
			h.Set("Content-Range", strings.Replace(h.Get("Content-Range"), "bytes", "Bytes", 1))
		}}, r)
	})
}

// FromStart answers a ranged read with bytes from the start of the blob, but says that they are
// those of the range.
func FromStart() Fault {
	return OnRanges(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		right := httptest.NewRecorder()
		next.ServeHTTP(right, r)
		whole := r.Clone(r.Context())
		whole.Header.Del("Range")
		wrong := httptest.NewRecorder()
		next.ServeHTTP(wrong, whole)
		w.Header().Set("Content-Range", right.Header().Get("Content-Range"))
		w.Header().Set("Content-Length", strconv.Itoa(right.Body.Len()))
		w.WriteHeader(right.Code)
		send(w, wrong.Body.Bytes()[:right.Body.Len()])
	})
}

// CutEach breaks the connection after n bytes of each answer.
func CutEach(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		n := min(n, answer.Body.Len())
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		send(w, answer.Body.Bytes()[:n])
		flush(w)
		if n < answer.Body.Len() {
			panic(http.ErrAbortHandler)
		}
	}
}

func send(w io.Writer, data []byte) {
	if _, err := w.Write(data); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// Quirk is a way in which registries and proxies fail to serve ranges of blobs correctly, while a
// plain pull gets the right blob.
type Quirk struct {
	Name  string
	Fault Fault
	// Shown is true if one response to a range request shows that ranges are not served.
	Shown bool
	// Streamed is true if layers must be read whole.
	Streamed bool
}

// Quirks returns all quirks.
func Quirks() []Quirk {
	ranges := func(name string, fault Fault) Quirk {
		return Quirk{Name: name, Fault: OnRanges(fault), Streamed: true}
	}
	shown := func(name string, fault Fault) Quirk {
		return Quirk{Name: name, Fault: OnRanges(fault), Shown: true, Streamed: true}
	}
	return []Quirk{
		shown("ignored", IgnoreRange()),
		shown("not satisfiable", Status(http.StatusRequestedRangeNotSatisfiable)),
		shown("multipart", Multipart()),
		shown("gzip", Recompress("gzip", true)),
		{Name: "gzip of everything", Fault: Recompress("gzip", true), Shown: true, Streamed: true},
		{Name: "zstd of everything", Fault: Recompress("zstd", true), Shown: true, Streamed: true},
		{Name: "deflate of everything", Fault: Recompress("deflate", true), Shown: true, Streamed: true},
		shown("gzip of the range", Recompress("gzip", false)),
		{Name: "labelled", Fault: LabelEncoding("gzip")},
		{Name: "capital unit", Fault: UnitCase()},
		{Name: "capped", Fault: CapRange(100 << 10)},
		ranges("capped to very little", CapRange(1000)),
		{Name: "in parts", Fault: AlignRange(300_000)},
		shown("wrong range", ContentRange("bytes 0-99/100")),
		shown("no range", ContentRange("some")),
		shown("shortened", Shorten()),
		ranges("from the start", FromStart()),
		ranges("bad request", Status(http.StatusBadRequest)),
		ranges("forbidden", Status(http.StatusForbidden)),
		ranges("broken", Status(http.StatusInternalServerError)),
		ranges("reset", Reset(-1)),
		ranges("cut", CutEach(1000)),
		{Name: "everything cut", Fault: CutEach(200_000)},
		ranges("hanging", Hang(-1)),
		ranges("hanging in the body", Hang(1000)),
	}
}
