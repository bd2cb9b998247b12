package ops

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// headerTimeout ends connections that never send a whole request.
	headerTimeout = 5 * time.Second
	// readyTimeout is how long the question of readiness may take to answer.
	readyTimeout = 5 * time.Second
	// closeTimeout is how long requests under way may take once the server is to end.
	closeTimeout = time.Second
	// scrapes is how many scrapes of the metrics are answered at a time.
	scrapes = 4
)

// Config configures a [Server].
type Config struct {
	// Address is host:port to listen on.
	Address string
	// Gatherer has the metrics.
	Gatherer prometheus.Gatherer
	// NotReady returns why the node is not ready, nothing if it is.
	NotReady func(ctx context.Context) []error
	// Pprof serves profiles of the process.
	Pprof bool
	// Logger may be nil.
	Logger *slog.Logger
}

// Server answers over HTTP.
type Server struct {
	cfg Config
	log *slog.Logger
}

// New returns a server. It listens only in Run.
func New(cfg Config) *Server {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, log: cfg.Logger}
}

// NewRegistry returns a registry with the metrics of the process and of the Go runtime.
func NewRegistry() (*prometheus.Registry, error) {
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of the process: %w", err)
		}
	}
	return reg, nil
}

// Handler returns what answers.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: scrapes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { s.answer(w, r, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.ready)
	if s.cfg.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	reasons := s.cfg.NotReady(ctx)
	if len(reasons) == 0 {
		s.answer(w, r, http.StatusOK, "ok\n")
		return
	}
	var text strings.Builder
	for _, reason := range reasons {
		text.WriteString(reason.Error() + "\n")
	}
	s.answer(w, r, http.StatusServiceUnavailable, text.String())
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	if _, err := io.WriteString(w, text); err != nil {
		s.log.DebugContext(r.Context(), "a request ended early", "path", r.URL.Path, "error", err)
	}
}

// Run answers until ctx ends. It must be called once.
func (s *Server) Run(ctx context.Context) error {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", s.cfg.Address)
	if err != nil {
		return fmt.Errorf("listening for metrics and health: %w", err)
	}
	server := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: headerTimeout, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if err := server.Shutdown(patient); err != nil {
			s.log.DebugContext(ctx, "pending requests are canceled", "error", errors.Join(err, server.Close()))
		}
	})
	s.log.InfoContext(ctx, "serving metrics and health", "address", listener.Addr().String(), "pprof", s.cfg.Pprof)
	err = server.Serve(listener)
	if stop() {
		return fmt.Errorf("serving metrics and health: %w", err)
	}
	<-closed
	return nil
}
