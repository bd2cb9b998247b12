package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// MaxManifest is the longest manifest in bytes that is read: the limit that
	// the OCI distribution specification asks registries to accept.
	MaxManifest = 4 << 20
	// MaxConfig is the longest image configuration in bytes that is read.
	MaxConfig = 8 << 20
	// MaxIndexBlob is the longest layer index in bytes that is read: that of a
	// layer with four million entries.
	MaxIndexBlob = 256 << 20
)

const (
	defaultStall        = 15 * time.Second
	defaultLoginTimeout = 30 * time.Second
	// maxRedirects is how many hops a blob read follows. Registries use one.
	maxRedirects = 5
	// maxKnownTargets bounds the redirect targets remembered: more layers than a
	// node has mounted.
	maxKnownTargets = 4096
	// maxKnownRepositories bounds the repositories of which it is remembered whether they
	// serve ranges.
	maxKnownRepositories = 1024
)

// Config configures a [Client]. The zero value works: credentials of the Docker
// configuration, TLS, no logs.
type Config struct {
	// Keychain finds the credentials. Default [authn.DefaultKeychain], which reads
	// the Docker configuration and runs its credential helpers.
	Keychain authn.Keychain
	// Credentials is used in place of Keychain, if not nil, where one repository
	// may have several credentials.
	Credentials Credentials
	// PlainHTTP reports whether a registry, named by host and port, may be spoken
	// to without TLS. Loopback addresses always may. nil allows no other.
	PlainHTTP func(host string) bool
	// Endpoints returns where the content of a registry, named by host and port, is to be
	// had: its mirrors in their order, and itself. None, as well as nil, leaves the
	// registry itself. It is called for every request, returns the same endpoints until
	// something has changed, and is safe for concurrent use. What is pushed goes to the
	// registry itself.
	Endpoints func(ctx context.Context, host string) []*Endpoint
	// Transport makes the connections. Default a transport of the client's own,
	// with TLS, HTTP/2 and the proxy of the environment.
	Transport http.RoundTripper
	// UserAgent is sent with every request. Default "brisk".
	UserAgent string
	// StallTimeout ends a request on which no byte has arrived for so long.
	// Default 15 s.
	StallTimeout time.Duration
	// LoginTimeout bounds the renewal of credentials. Default 30 s.
	LoginTimeout time.Duration
	// Trust says which artifacts [Client.FindArtifact] uses. nil uses all.
	Trust Trust
	// StartupGrace is how much longer than the index the start-up artifact of an image may take. It
	// is a hint to a pull, which does not wait long for it. Default 100 ms.
	StartupGrace time.Duration
	// OnRequest is called when a request has ended and its answer has been read; nil if
	// nobody wants to know. It must not wait.
	OnRequest func(Exchange)
	// Logger gets the unusual. nil discards.
	Logger *slog.Logger
}

// Client speaks to registries. It is safe for concurrent use. Close it to end
// idle connections.
type Client struct {
	cfg       Config
	log       *slog.Logger
	transport http.RoundTripper
	targets   *lru.Cache[blobName, string]    // where a redirect of a blob led
	ranges    *lru.Cache[string, rangesKnown] // by repository
	// signatures are those for which artifacts were trusted, by the digest of the artifact.
	signatures *lru.Cache[block.Digest, signature.Signature]

	mu       sync.Mutex
	sessions map[sessionKey]*session
}

// NewClient returns a client. It connects to nothing.
func NewClient(cfg Config) (*Client, error) {
	if cfg.StallTimeout < 0 || cfg.LoginTimeout < 0 {
		return nil, errors.New("registry client: negative timeout")
	}
	if cfg.Keychain == nil {
		cfg.Keychain = authn.DefaultKeychain
	}
	if cfg.Credentials == nil {
		cfg.Credentials = keychain{cfg.Keychain}
	}
	if cfg.Transport == nil {
		cfg.Transport = NewTransport()
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "brisk"
	}
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = defaultStall
	}
	if cfg.LoginTimeout == 0 {
		cfg.LoginTimeout = defaultLoginTimeout
	}
	if cfg.StartupGrace == 0 {
		cfg.StartupGrace = defaultStartupGrace
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	targets, err := lru.New[blobName, string](maxKnownTargets)
	if err != nil {
		return nil, fmt.Errorf("registry client: %w", err)
	}
	ranges, err := lru.New[string, rangesKnown](maxKnownRepositories)
	if err != nil {
		return nil, fmt.Errorf("registry client: %w", err)
	}
	signatures, err := lru.New[block.Digest, signature.Signature](maxKnownSignatures)
	if err != nil {
		return nil, fmt.Errorf("registry client: %w", err)
	}
	return &Client{
		cfg:        cfg,
		log:        cfg.Logger,
		transport:  &userAgent{next: observe(cfg.Transport, cfg.OnRequest), value: cfg.UserAgent},
		targets:    targets,
		ranges:     ranges,
		signatures: signatures,
		sessions:   make(map[sessionKey]*session),
	}, nil
}

// Close closes idle connections. The client may be used after it.
func (c *Client) Close() {
	if t, ok := c.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// ParseReference reads an image reference the way Docker does, and marks its
// registry as one that may speak plain HTTP if the configuration says so.
func (c *Client) ParseReference(s string) (name.Reference, error) {
	ref, err := name.ParseReference(s)
	if err != nil {
		return nil, fmt.Errorf("parsing image reference %.300q: %w", s, err)
	}
	if !c.plainHTTP(ref.Context().RegistryStr()) {
		return ref, nil
	}
	ref, err = name.ParseReference(s, name.Insecure)
	if err != nil {
		return nil, fmt.Errorf("parsing image reference %.300q: %w", s, err)
	}
	return ref, nil
}

// plainHTTP reports whether the registry may be spoken to without TLS.
func (c *Client) plainHTTP(host string) bool {
	return isLoopback(host) || (c.cfg.PlainHTTP != nil && c.cfg.PlainHTTP(host))
}

func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// NewTransport returns the default of [Config].Transport: that of net/http but for the connections
// it keeps. All reads of a node go to one or two hosts, several at a time.
func NewTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          128,
		MaxIdleConnsPerHost:   32,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		// Blobs are compressed already, and a body decoded on the way would not be
		// the bytes that were asked for.
		DisableCompression: true,
		// The default of 4 KiB costs a system call for every 4 KiB of a blob.
		ReadBufferSize: 64 << 10,
	}
}
