package localregistry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// limiterBurst is how many bytes a limited registry may send at once. Small
	// enough that connections share the rate evenly, large enough that a limit of
	// 10 Gbit/s needs no more than 20,000 waits a second.
	limiterBurst = 64 << 10
	// headerTimeout ends connections that never send a whole request.
	headerTimeout = 10 * time.Second
	// handlersTimeout bounds the wait for requests that were cut off to notice it.
	handlersTimeout = 10 * time.Second
)

// Config configures the registry. The zero value is a distribution registry
// that keeps its content in memory and sends as fast as it can.
type Config struct {
	// Addr is the address to listen on. Default 127.0.0.1 and any free port.
	Addr string
	// Root is the directory that holds the content, so that it outlives the
	// server. Empty keeps it in memory.
	Root string
	// Referrers serves the referrers API, through go-containerregistry's registry
	// in place of distribution's. Manifests are then always kept in memory.
	Referrers bool
	// BitsPerSecond limits what all connections together are sent, in bits of TCP
	// payload per second. 0 means no limit.
	BitsPerSecond int64
	// Wrap, if not nil, puts a handler in front of the registry's own.
	Wrap func(http.Handler) http.Handler
}

// Stats counts what a server has done since it started.
type Stats struct {
	Requests  int64 // HTTP requests received
	BytesSent int64 // bytes written to connections, HTTP headers included
}

// Server is a registry. Its methods may be called concurrently.
type Server struct {
	ctx     context.Context //nolint:containedctx // the life of the server, which Resume and the limited writes need
	cancel  context.CancelFunc
	addr    string
	handler http.Handler
	stopApp func() error
	limiter *rate.Limiter // nil: no limit

	requests atomic.Int64
	sent     atomic.Int64

	mu      sync.Mutex
	serving *serving // nil while paused
}

// serving is the server between one listen and the close that ends it.
type serving struct {
	http        *http.Server
	err         chan error // what Serve returned
	connections sync.WaitGroup
}

// count follows the connections, each of which runs one handler at a time.
func (s *serving) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.connections.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.connections.Done()
	default:
	}
}

// wait returns when no handler runs any more, so that the files of the registry may be removed.
func (s *serving) wait() error {
	ended := make(chan struct{})
	go func() {
		s.connections.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(handlersTimeout):
		return fmt.Errorf("requests still run %s after the end of their connections", handlersTimeout)
	}
}

// Start listens and serves until Close, or until ctx ends. Close must be called
// in either case.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.BitsPerSecond < 0 {
		return nil, fmt.Errorf("starting local registry: a limit of %d bits per second is negative", cfg.BitsPerSecond)
	}
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	ctx, cancel := context.WithCancel(ctx)
	handler, stopApp, err := newHandler(ctx, cfg)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("starting local registry: %w", err)
	}
	s := &Server{ctx: ctx, cancel: cancel, addr: cfg.Addr, stopApp: stopApp}
	s.handler = s.counted(handler)
	if cfg.BitsPerSecond > 0 {
		s.limiter = rate.NewLimiter(rate.Limit(float64(cfg.BitsPerSecond)/8), limiterBurst)
	}
	if err := s.Resume(); err != nil {
		cancel()
		return nil, errors.Join(err, stopApp())
	}
	return s, nil
}

// Addr returns host:port, which is also how image references name the registry.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	return Stats{Requests: s.requests.Load(), BytesSent: s.sent.Load()}
}

// Pause makes the registry unreachable: connections break and new ones are
// refused. No request runs when it returns. The content stays. Pausing twice is not an error.
func (s *Server) Pause() error {
	s.mu.Lock()
	current := s.serving
	s.serving = nil
	s.mu.Unlock()
	if current == nil {
		return nil
	}
	err := current.http.Close()
	if serveErr := <-current.err; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	if err = errors.Join(err, current.wait()); err != nil {
		return fmt.Errorf("stopping local registry: %w", err)
	}
	return nil
}

// Resume makes the registry reachable again at the same address. Resuming a
// registry that serves is not an error.
func (s *Server) Resume() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving != nil {
		return nil
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(s.ctx, "tcp", s.addr)
	if err != nil {
		return fmt.Errorf("starting local registry: %w", err)
	}
	s.addr = listener.Addr().String()
	next := &serving{err: make(chan error, 1), http: &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          log.New(io.Discard, "", 0),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
	}}
	next.http.ConnState = next.count
	go func() { next.err <- next.http.Serve(&countingListener{Listener: listener, server: s}) }()
	s.serving = next
	return nil
}

// Close ends every connection and the server.
func (s *Server) Close() error {
	s.cancel()
	return errors.Join(s.Pause(), s.stopApp())
}

func (s *Server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		next.ServeHTTP(w, r)
	})
}
