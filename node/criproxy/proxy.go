package criproxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

const (
	// defaultMaxMessage is what kubelet and containerd allow, too.
	defaultMaxMessage  = 16 << 20
	defaultStopTimeout = 5 * time.Second
	// reconnectAfter is how long at most the runtime may be back without being found.
	reconnectAfter = time.Second
)

// Config configures a [Proxy].
type Config struct {
	// Socket is the path to listen on, in a directory that exists. Only root, or the
	// user of this process, may connect.
	Socket string
	// Listener is used in place of Socket, if not nil: one that systemd has opened.
	Listener net.Listener
	// Runtime is the path of the runtime's own socket.
	Runtime string
	// Capture is called for every credential that kubelet pulls with, before the runtime
	// is. It returns quickly. Its error, which holds no secret, is logged.
	Capture func(repo name.Repository, auth authn.AuthConfig) error
	// MaxMessage is the longest message in bytes that is handed on. Default 16 MiB.
	MaxMessage int
	// StopTimeout is how long calls may go on after the end of Run. Default 5 s.
	StopTimeout time.Duration
	// Logger gets the unusual. nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics, nil for none.
	Registerer prometheus.Registerer
}

// Proxy hands calls of the container runtime interface on. See the package.
type Proxy struct {
	cfg     Config
	log     *slog.Logger
	pulls   *prometheus.CounterVec
	streams prometheus.Gauge
}

// New returns a proxy. It listens and connects in Run only.
func New(cfg Config) (*Proxy, error) {
	switch {
	case cfg.Runtime == "" || (cfg.Socket == "") == (cfg.Listener == nil):
		return nil, errors.New("proxy of the runtime interface: it needs the runtime's socket, and one of a path and a listener")
	case cfg.Socket == cfg.Runtime:
		return nil, errors.New("proxy of the runtime interface: it would connect to itself")
	case cfg.Capture == nil:
		return nil, errors.New("CRI proxy: Capture is required")
	case cfg.MaxMessage < 0 || cfg.StopTimeout < 0:
		return nil, errors.New("proxy of the runtime interface: negative limit")
	}
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = defaultMaxMessage
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = defaultStopTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	factory := promauto.With(cfg.Registerer)
	return &Proxy{
		cfg: cfg, log: cfg.Logger,
		pulls: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_cri_pulls_total",
			Help: "Pulls that kubelet has asked for, by what came of their credential: captured, none, unusable.",
		}, []string{"credential"}),
		streams: factory.NewGauge(prometheus.GaugeOpts{
			Name: "brisk_cri_calls",
			Help: "Calls of the container runtime interface that are being handed on.",
		}),
	}, nil
}

// Run hands calls on until ctx ends, and then waits for those under way, for
// Config.StopTimeout at most.
func (p *Proxy) Run(ctx context.Context) error {
	runtime, err := grpc.NewClient("unix:"+p.cfg.Runtime,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectAfter / 20, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectAfter},
			MinConnectTimeout: reconnectAfter,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(p.cfg.MaxMessage)),
	)
	if err != nil {
		return fmt.Errorf("connecting to the runtime: %w", err)
	}
	listener, err := p.listen(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("listening for kubelet: %w", err), runtime.Close())
	}
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(raw{}),
		grpc.MaxRecvMsgSize(p.cfg.MaxMessage),
		grpc.UnknownServiceHandler((&relay{proxy: p, runtime: runtime}).handle),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	stopped := make(chan struct{})
	end := context.AfterFunc(ctx, func() {
		defer close(stopped)
		hard := time.AfterFunc(p.cfg.StopTimeout, server.Stop)
		defer hard.Stop()
		server.GracefulStop()
	})
	err = server.Serve(listener)
	if end() {
		server.Stop()
	} else {
		<-stopped
	}
	if errors.Is(err, grpc.ErrServerStopped) {
		err = nil
	}
	if p.cfg.Listener == nil {
		err = errors.Join(err, ignoreMissing(os.Remove(p.cfg.Socket)))
	}
	return errors.Join(err, runtime.Close())
}

// listen makes the socket under another name and moves it into place once nobody
// else may connect to it.
func (p *Proxy) listen(ctx context.Context) (net.Listener, error) {
	if p.cfg.Listener != nil {
		return p.cfg.Listener, nil
	}
	if err := p.removeStale(ctx); err != nil {
		return nil, err
	}
	// A directory that only we may enter, since a socket is there before its mode is.
	dir, err := os.MkdirTemp(filepath.Dir(p.cfg.Socket), ".cri-*")
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "sock")
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if unix, ok := listener.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false)
	}
	err = os.Chmod(path, 0o600)
	if err == nil {
		err = os.Rename(path, p.cfg.Socket)
	}
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// removeStale removes the socket of a process that is gone.
func (p *Proxy) removeStale(ctx context.Context) error {
	info, err := os.Lstat(p.cfg.Socket)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket", p.cfg.Socket)
	}
	var dialer net.Dialer
	if conn, err := dialer.DialContext(ctx, "unix", p.cfg.Socket); err == nil {
		return errors.Join(fmt.Errorf("another process listens on %s", p.cfg.Socket), conn.Close())
	}
	return ignoreMissing(os.Remove(p.cfg.Socket))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
