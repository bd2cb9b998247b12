package registrytest

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Fault answers a request wrongly. It may call next, the registry proper.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Rule selects the requests that a fault affects.
type Rule struct {
	Fault Fault
	// Match chooses the requests. nil means every GET of a blob.
	Match func(*http.Request) bool
	// Times is how many requests meet the fault. 0 means all of them.
	Times int
}

type faults struct {
	mu    sync.Mutex
	rules []*Rule
}

// Inject adds a rule. The rule that was added first and matches wins.
func (r *Registry) Inject(rule Rule) {
	if rule.Match == nil {
		rule.Match = isBlobGet
	}
	if rule.Times == 0 {
		rule.Times = -1
	}
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.rules = append(r.faults.rules, &rule)
}

// ClearFaults takes every rule away.
func (r *Registry) ClearFaults() {
	r.faults.mu.Lock()
	defer r.faults.mu.Unlock()
	r.faults.rules = nil
}

func (f *faults) next(r *http.Request) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, rule := range f.rules {
		if !rule.Match(r) {
			continue
		}
		if rule.Times > 0 {
			rule.Times--
			if rule.Times == 0 {
				f.rules = slices.Delete(f.rules, i, i+1)
			}
		}
		return rule.Fault
	}
	return nil
}

func (f *faults) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault := f.next(r); fault != nil {
			fault(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Manifests matches what reads a manifest by tag or digest.
func Manifests(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/")
}

// Token matches what asks the token service for a token.
func Token(r *http.Request) bool { return r.URL.Path == tokenPath }

// Blob matches reads of the blob with a digest.
func Blob(digest string) func(*http.Request) bool {
	return func(r *http.Request) bool { return isBlobGet(r) && strings.HasSuffix(r.URL.Path, digest) }
}

// Ping matches what a client asks to find out how it has to log in.
func Ping(r *http.Request) bool { return r.URL.Path == "/v2/" }

// Endless answers with a body that does not end before the client gives up.
func Endless() Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		chunk := bytes.Repeat([]byte(" "), 64<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
}

// Status answers with a status code and, in pairs, header fields.
func Status(code int, header ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		http.Error(w, "injected", code)
	}
}

// Cut sends n bytes of the body that was announced and breaks the connection.
// A negative n breaks it before any answer.
func Cut(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if n >= 0 {
			next.ServeHTTP(&editor{ResponseWriter: w, edit: keepFirst(n)}, r)
			flush(w)
		}
		panic(http.ErrAbortHandler)
	}
}

// Reset sends n bytes of the body that was announced, or not even a header when n is
// negative, and resets the connection, as firewalls and crashing servers do.
func Reset(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if n >= 0 {
			next.ServeHTTP(&editor{ResponseWriter: w, edit: keepFirst(n)}, r)
			flush(w)
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			panic(http.ErrAbortHandler)
		}
		tcp, ok := inner.NetConn().(*net.TCPConn)
		if !ok || errors.Join(tcp.SetLinger(0), conn.Close()) != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// Hang sends n bytes of the body, or not even a header when n is negative, and
// then nothing more until the client gives up.
func Hang(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if n >= 0 {
			next.ServeHTTP(&editor{ResponseWriter: w, edit: keepFirst(n)}, r)
			flush(w)
		}
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
}

// Flip inverts every bit of one byte of the body.
func Flip(offset int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&editor{ResponseWriter: w, edit: func(at int, p []byte) []byte {
			if i := offset - at; i >= 0 && i < len(p) {
				p = slices.Clone(p)
				p[i] ^= 0xff
			}
			return p
		}}, r)
	}
}

// IgnoreRange answers a ranged read with the whole blob, as registries without
// support for ranges do.
func IgnoreRange() Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		whole := r.Clone(r.Context())
		whole.Header.Del("Range")
		next.ServeHTTP(w, whole)
	}
}

// ContentRange replaces the Content-Range header of the answer.
func ContentRange(value string) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&editor{ResponseWriter: w, header: func(h http.Header) { h.Set("Content-Range", value) }}, r)
	}
}

// Shorten answers a ranged read with one byte less than was asked for, and says
// so truthfully in no header but Content-Length.
func Shorten() Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var length int
		next.ServeHTTP(&editor{
			ResponseWriter: w,
			header: func(h http.Header) {
				n, err := strconv.Atoi(h.Get("Content-Length"))
				if err != nil {
					panic(http.ErrAbortHandler)
				}
				length = n - 1
				h.Set("Content-Length", strconv.Itoa(length))
			},
			edit: func(at int, p []byte) []byte { return p[:max(0, min(len(p), length-at))] },
		}, r)
	}
}

// editor changes an answer on its way.
type editor struct {
	http.ResponseWriter
	header  func(http.Header)             // before the header is sent
	edit    func(at int, p []byte) []byte // what to send in place of p, at that offset of the body
	at      int
	started bool
}

// WriteHeader implements http.ResponseWriter.
func (e *editor) WriteHeader(status int) {
	if !e.started && e.header != nil {
		e.header(e.Header())
	}
	e.started = true
	e.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (e *editor) Write(p []byte) (int, error) {
	if !e.started {
		e.WriteHeader(http.StatusOK)
	}
	out := p
	if e.edit != nil {
		out = e.edit(e.at, p)
	}
	e.at += len(p)
	if len(out) > 0 {
		if n, err := e.ResponseWriter.Write(out); err != nil {
			return min(n, len(p)), err
		}
	}
	return len(p), nil
}

func keepFirst(n int) func(int, []byte) []byte {
	return func(at int, p []byte) []byte { return p[:max(0, min(len(p), n-at))] }
}

func flush(w http.ResponseWriter) {
	if err := http.NewResponseController(w).Flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
}
