package criproxy

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

const hidden = "swordfish"

// runtime is a container runtime that a test can look into.
type runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	mu     sync.Mutex
	pulled []*runtimeapi.PullImageRequest
	seen   metadata.MD
	events chan *runtimeapi.ContainerEventResponse
	left   chan struct{} // a caller of a long call has gone
}

func newRuntime() *runtime {
	return &runtime{events: make(chan *runtimeapi.ContainerEventResponse), left: make(chan struct{}, 100)}
}

func (r *runtime) Version(ctx context.Context, req *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.mu.Lock()
	r.seen = md.Copy()
	r.mu.Unlock()
	if err := grpc.SetHeader(ctx, metadata.Pairs("runtime-header", "h1", "runtime-header", "h2")); err != nil {
		return nil, err
	}
	if err := grpc.SetTrailer(ctx, metadata.Pairs("runtime-trailer-bin", "\x00\xff")); err != nil {
		return nil, err
	}
	if req.GetVersion() == "fail" {
		st, err := status.New(codes.FailedPrecondition, "told to").WithDetails(&runtimeapi.VersionRequest{Version: "details"})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return &runtimeapi.VersionResponse{RuntimeName: "fake"}, nil
	}
	return &runtimeapi.VersionResponse{RuntimeName: "fake", RuntimeVersion: time.Until(deadline).Round(time.Second).String()}, nil
}

func (r *runtime) PullImage(_ context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pulled = append(r.pulled, req)
	return &runtimeapi.PullImageResponse{ImageRef: "sha256:1"}, nil
}

// ListImages answers with a message of about as many bytes as the filter says, or
// not at all.
func (r *runtime) ListImages(ctx context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	if req.GetFilter().GetImage().GetImage() == "hang" {
		<-ctx.Done()
		r.left <- struct{}{}
		return nil, ctx.Err()
	}
	n := len(req.GetFilter().GetImage().GetImage())
	return &runtimeapi.ListImagesResponse{Images: []*runtimeapi.Image{{Id: string(bytes.Repeat([]byte("x"), n))}}}, nil
}

// GetContainerEvents sends a header at once and events as they come.
func (r *runtime) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	if err := stream.SendHeader(metadata.Pairs("events", "begin")); err != nil {
		return err
	}
	for {
		select {
		case e, ok := <-r.events:
			if !ok {
				return status.Error(codes.Aborted, "no more events")
			}
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			r.left <- struct{}{}
			return stream.Context().Err()
		}
	}
}

// serve serves the runtime on a socket until stop is called.
func (r *runtime) serve(tb testing.TB, path string) (stop func()) {
	tb.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(tb.Context(), "unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.UnknownServiceHandler(echo))
	runtimeapi.RegisterRuntimeServiceServer(server, r)
	runtimeapi.RegisterImageServiceServer(server, r)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	return sync.OnceFunc(func() {
		server.Stop()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
}

// echo is a service of the future, which both sides stream to.
func echo(_ any, stream grpc.ServerStream) error {
	if method, _ := grpc.MethodFromServerStream(stream); method != "/runtime.v9.Future/Echo" {
		return status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	for n := 1; ; n++ {
		var req runtimeapi.VersionRequest
		if err := stream.RecvMsg(&req); err != nil {
			return nil //nolint:nilerr // the end of the stream
		}
		if err := stream.SendMsg(&runtimeapi.VersionResponse{Version: req.GetVersion()}); err != nil {
			return err
		}
	}
}

// seen is what a proxy has captured.
type seen struct {
	mu  sync.Mutex
	all []string
	err error
}

func (s *seen) capture(repo name.Repository, a authn.AuthConfig) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, repo.String()+" "+a.Username+":"+a.Password+" "+a.Auth+" "+a.IdentityToken+" "+a.RegistryToken)
	return s.err
}

func (s *seen) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.all...)
}

// journal is a log to look into.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// setup is a runtime with a proxy in front of it.
type setup struct {
	runtime *runtime
	stop    func() // the runtime
	seen    *seen
	log     *journal
	cfg     Config
	conn    *grpc.ClientConn // to the proxy
	direct  *grpc.ClientConn // to the runtime
	end     func() error     // of the proxy
}

func newSetup(tb testing.TB, cfg Config) *setup {
	tb.Helper()
	dir := tb.TempDir()
	s := &setup{runtime: newRuntime(), seen: &seen{}, log: &journal{}}
	cfg.Socket, cfg.Runtime = filepath.Join(dir, "p.sock"), filepath.Join(dir, "r.sock")
	cfg.Capture, cfg.Logger = s.seen.capture, slog.New(slog.NewJSONHandler(s.log, nil))
	s.stop = s.runtime.serve(tb, cfg.Runtime)
	tb.Cleanup(func() { s.stop() })
	s.cfg = cfg
	s.end = start(tb, cfg)
	s.conn, s.direct = dial(tb, cfg.Socket), dial(tb, cfg.Runtime)
	return s
}

// start runs a proxy until end is called or the test ends.
func start(tb testing.TB, cfg Config) (end func() error) {
	tb.Helper()
	p, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	end = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	tb.Cleanup(func() {
		if err := end(); err != nil {
			tb.Error(err)
		}
	})
	return end
}

func dial(tb testing.TB, path string) *grpc.ClientConn {
	tb.Helper()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := conn.Close(); err != nil {
			tb.Error(err)
		}
	})
	return conn
}
