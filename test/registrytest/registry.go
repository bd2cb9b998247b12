package registrytest

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/internal/localregistry"
)

// Auth is how a registry asks for credentials.
type Auth int

// The ways of asking for credentials.
const (
	AuthNone  Auth = iota
	AuthBasic      // user name and password with every request
	AuthToken      // a bearer token, got for user name and password
)

// The credentials that registries with authentication accept.
const (
	User     = "gopher"
	Password = "burrow"
	// Pusher has Password too, and keeps it: what tests push themselves is pushed as.
	Pusher = "test"
)

// Config configures the registry of a test. The zero value is a distribution
// registry without referrers API, open to everybody.
type Config struct {
	Referrers     bool // with the referrers API
	BitsPerSecond int64
	Auth          Auth
	// TokenLife is how long a bearer token is said to live and lives. Default an hour.
	TokenLife time.Duration
	// Redirect answers blob GETs with a redirect to a signed URL on another port,
	// as object storage is used.
	Redirect bool
}

// Registry is a running registry. Its methods may be called concurrently.
type Registry struct {
	*localregistry.Server
	cfg      Config
	faults   faults
	recorder recorder
	tokens   tokens
	storage  *storage // nil without Config.Redirect
	push     http.RoundTripper
}

// New starts a registry that ends with the test.
func New(tb testing.TB, cfg Config) *Registry {
	tb.Helper()
	if cfg.TokenLife == 0 {
		cfg.TokenLife = time.Hour
	}
	r := &Registry{cfg: cfg, tokens: tokens{life: cfg.TokenLife, now: time.Now}}
	root := ""
	if !cfg.Referrers {
		// Distribution's files are faster than its memory, which copies a blob for
		// every write to it.
		root = tb.TempDir()
	}
	server, err := localregistry.Start(tb.Context(), localregistry.Config{
		Root:          root,
		Referrers:     cfg.Referrers,
		BitsPerSecond: cfg.BitsPerSecond,
		Wrap:          r.wrap,
	})
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	r.Server = server
	transport := &http.Transport{}
	r.push = transport
	tb.Cleanup(func() {
		transport.CloseIdleConnections()
		if r.storage != nil {
			r.storage.server.Close()
		}
		if err := server.Close(); err != nil {
			tb.Errorf("registrytest: %v", err)
		}
	})
	return r
}

// Repository names a repository of the registry.
func (r *Registry) Repository(tb testing.TB, repository string) name.Repository {
	tb.Helper()
	repo, err := name.NewRepository(r.Addr() + "/" + repository)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	return repo
}

// Ref names an image of the registry, such as "some/image:v1".
func (r *Registry) Ref(tb testing.TB, ref string) name.Reference {
	tb.Helper()
	parsed, err := name.ParseReference(r.Addr() + "/" + ref)
	if err != nil {
		tb.Fatalf("registrytest: %v", err)
	}
	return parsed
}

// LeakOptions tells goleak about the goroutine that the distribution registry
// never ends.
func LeakOptions() []goleak.Option {
	return []goleak.Option{goleak.IgnoreTopFunction("github.com/docker/go-events.(*Broadcaster).run")}
}

// wrap orders what stands in front of the registry: what is recorded is what
// clients see, so the recorder is outermost.
func (r *Registry) wrap(inner http.Handler) http.Handler {
	next := inner
	if r.cfg.Redirect {
		r.storage = &storage{inner: inner}
		r.storage.server = httptest.NewServer(r.recorder.handler("storage", r.faults.handler(r.storage)))
		next = r.storage.redirecting(inner)
	}
	return r.recorder.handler("registry", r.faults.handler(r.authenticated(next)))
}

// pushOptions are for what the test itself puts into the registry.
func (r *Registry) pushOptions() []remote.Option {
	return []remote.Option{
		remote.WithTransport(r.push),
		remote.WithAuth(&authn.Basic{Username: Pusher, Password: Password}),
	}
}

func isBlobGet(req *http.Request) bool {
	return req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/blobs/sha256:")
}
