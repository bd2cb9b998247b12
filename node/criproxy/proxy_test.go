package criproxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a caller gets through the proxy is what it gets without.
func TestTransparent(t *testing.T) {
	s := newSetup(t, Config{})
	type outcome struct {
		Answer, Code, Message string
		Details               int
		Header, Trailer, Seen metadata.MD
	}
	ask := func(conn *grpc.ClientConn, version string) outcome {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, "caller", "a", "caller", "b", "caller-bin", "\x00\xfe", "traceparent", "00-1-2-3")
		var o outcome
		got, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{Version: version},
			grpc.Header(&o.Header), grpc.Trailer(&o.Trailer))
		o.Answer, o.Code, o.Message = got.String(), status.Code(err).String(), status.Convert(err).Message()
		o.Details = len(status.Convert(err).Details())
		s.runtime.mu.Lock()
		defer s.runtime.mu.Unlock()
		o.Seen = s.runtime.seen
		delete(o.Seen, "grpc-accept-encoding")
		return o
	}
	for _, version := range []string{"1", "fail"} {
		direct, through := ask(s.direct, version), ask(s.conn, version)
		if diff := cmp.Diff(direct, through); diff != "" {
			t.Errorf("%s: %s", version, diff)
		}
		if len(through.Header) < 2 || len(through.Trailer) < 1 || through.Seen.Get("caller-bin")[0] != "\x00\xfe" {
			t.Errorf("%s: too little to compare: %+v", version, through)
		}
	}
	if o := ask(s.conn, "fail"); o.Code != "FailedPrecondition" || o.Details != 1 {
		t.Errorf("%+v", o)
	}
	if o := ask(s.conn, "1"); !strings.Contains(o.Answer, "1m40s") {
		t.Errorf("the deadline did not pass: %s", o.Answer)
	}
	_, err := runtimeapi.NewRuntimeServiceClient(s.conn).ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("what the runtime does not have: %v", err)
	}
	if len(s.seen.list()) != 0 {
		t.Errorf("captured %v", s.seen.list())
	}
}

// A service that nobody knows yet works, in both directions at once.
func TestUnknownService(t *testing.T) {
	s := newSetup(t, Config{})
	stream, err := s.conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/runtime.v9.Future/Echo")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if err := stream.SendMsg(&runtimeapi.VersionRequest{Version: strconv.Itoa(i)}); err != nil {
			t.Fatal(err)
		}
		var got runtimeapi.VersionResponse
		if err := stream.RecvMsg(&got); err != nil || got.GetVersion() != strconv.Itoa(i) {
			t.Fatalf("%d: %s, %v", i, got.GetVersion(), err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&runtimeapi.VersionResponse{}); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
	err = s.conn.Invoke(t.Context(), "/runtime.v9.Future/Other", &runtimeapi.VersionRequest{}, &runtimeapi.VersionResponse{})
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "unknown method /runtime.v9.Future/Other") {
		t.Errorf("unknown method: %v", err)
	}
}

// Events come as they happen, and the header before the first of them.
func TestEvents(t *testing.T) {
	s := newSetup(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := runtimeapi.NewRuntimeServiceClient(s.conn).GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if header, err := stream.Header(); err != nil || header.Get("events")[0] != "begin" {
		t.Fatalf("header %v, %v", header, err)
	}
	for i := range 50 {
		s.runtime.events <- &runtimeapi.ContainerEventResponse{ContainerId: strconv.Itoa(i)}
		if e, err := stream.Recv(); err != nil || e.GetContainerId() != strconv.Itoa(i) {
			t.Fatalf("event %d: %v, %v", i, e, err)
		}
	}
	cancel()
	<-s.runtime.left // the runtime hears that the caller has gone
	again, err := runtimeapi.NewRuntimeServiceClient(s.conn).GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	close(s.runtime.events)
	if _, err := again.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("end: %v", err)
	}
}

// Deadlines and cancellations reach the runtime, and end the call in time.
func TestDeadline(t *testing.T) {
	s := newSetup(t, Config{})
	hang := &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: "hang"}}}
	// The calls have to reach the runtime before that.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := runtimeapi.NewImageServiceClient(s.conn).ListImages(ctx, hang); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("deadline: %v", err)
	}
	<-s.runtime.left
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(2*time.Second, cancel)
	if _, err := runtimeapi.NewImageServiceClient(s.conn).ListImages(ctx, hang); status.Code(err) != codes.Canceled {
		t.Errorf("cancelled: %v", err)
	}
	<-s.runtime.left
}

func TestMessageSize(t *testing.T) {
	s := newSetup(t, Config{MaxMessage: 1 << 20})
	ask := func(n int) error {
		filter := &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: strings.Repeat("x", n)}}
		got, err := runtimeapi.NewImageServiceClient(s.conn).ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: filter})
		if err == nil && len(got.GetImages()[0].GetId()) != n {
			t.Errorf("%d bytes became %d", n, len(got.GetImages()[0].GetId()))
		}
		return err
	}
	for _, n := range []int{0, 1, 100_000, 1<<20 - 1000} {
		if err := ask(n); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if err := ask(1 << 20); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("too long: %v", err)
	}
	if err := ask(1); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// While the runtime is away, callers are told so at once. It is found when it is
// back, on the same connection.
func TestRuntimeRestarts(t *testing.T) {
	s := newSetup(t, Config{})
	version := func() error {
		_, err := runtimeapi.NewRuntimeServiceClient(s.conn).Version(t.Context(), &runtimeapi.VersionRequest{})
		return err
	}
	events, err := runtimeapi.NewRuntimeServiceClient(s.conn).GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := version(); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		s.stop()
		if _, err := events.Recv(); err == nil {
			t.Error("a stream outlives the runtime")
		}
		started := time.Now()
		if err := version(); status.Code(err) != codes.Unavailable || time.Since(started) > 5*time.Second {
			t.Errorf("away: %v after %s", err, time.Since(started))
		}
		s.stop = s.runtime.serve(t, s.cfg.Runtime)
		started = time.Now()
		for err := version(); err != nil; err = version() {
			if status.Code(err) != codes.Unavailable || time.Since(started) > 10*time.Second {
				t.Fatalf("back for %s: %v", time.Since(started), err)
			}
			<-time.After(10 * time.Millisecond)
		}
		if took := time.Since(started); took > 3*reconnectAfter {
			t.Errorf("found after %s", took)
		}
	}
	s.stop()
}

// A call under way may end after the proxy was told to; one that does not end is cut.
func TestStop(t *testing.T) {
	s := newSetup(t, Config{StopTimeout: 300 * time.Millisecond})
	stream, err := s.conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/runtime.v9.Future/Echo")
	if err != nil {
		t.Fatal(err)
	}
	echoes := func() error {
		if err := stream.SendMsg(&runtimeapi.VersionRequest{}); err != nil {
			return err
		}
		return stream.RecvMsg(&runtimeapi.VersionResponse{})
	}
	if err := echoes(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	started := time.Now()
	go func() { ended <- s.end() }()
	for err = echoes(); err == nil; err = echoes() {
		<-time.After(10 * time.Millisecond)
	}
	if took := time.Since(started); took < s.cfg.StopTimeout || took > 20*s.cfg.StopTimeout {
		t.Errorf("cut after %s: %v", took, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(s.cfg.Socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestSocket(t *testing.T) {
	s := newSetup(t, Config{})
	if _, err := runtimeapi.NewRuntimeServiceClient(s.conn).Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %s", info.Mode())
	}
	entries, err := os.ReadDir(filepath.Dir(s.cfg.Socket))
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	run := func(cfg Config, patience time.Duration) error {
		p, err := New(cfg)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		return p.Run(ctx)
	}
	if err := run(s.cfg, 20*time.Second); err == nil || !strings.Contains(err.Error(), "another process listens") {
		t.Errorf("a second proxy: %v", err)
	}
	file := s.cfg
	file.Socket = filepath.Join(filepath.Dir(s.cfg.Socket), "file")
	if err := os.WriteFile(file.Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(file, 20*time.Second); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("in place of a file: %v", err)
	}
	stale := s.cfg
	stale.Socket = filepath.Join(filepath.Dir(s.cfg.Socket), "stale")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale.Socket})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := run(stale, 2*time.Second); err != nil {
		t.Errorf("in place of a dead one's: %v", err)
	}
	given := s.cfg
	given.Socket = ""
	if given.Listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: stale.Socket}); err != nil {
		t.Fatal(err)
	}
	start(t, given)
	if _, err := runtimeapi.NewRuntimeServiceClient(dial(t, stale.Socket)).Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Errorf("on a listener of systemd: %v", err)
	}
	for what, cfg := range map[string]Config{
		"no runtime": {Socket: "/a", Capture: s.cfg.Capture},
		"itself":     {Socket: "/a", Runtime: "/a", Capture: s.cfg.Capture},
		"no socket":  {Runtime: "/a", Capture: s.cfg.Capture},
		"nobody":     {Socket: "/a", Runtime: "/b"},
		"negative":   {Socket: "/a", Runtime: "/b", Capture: s.cfg.Capture, MaxMessage: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

// Many at once, for the race detector.
func TestConcurrency(t *testing.T) {
	s := newSetup(t, Config{})
	s.cfg.Logger = slog.New(slog.DiscardHandler)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for j := range 20 {
				n := 1000 * (i + j)
				filter := &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: strings.Repeat("x", n)}}
				got, err := runtimeapi.NewImageServiceClient(s.conn).ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: filter})
				if err != nil || len(got.GetImages()[0].GetId()) != n {
					t.Errorf("%d: %v", n, err)
				}
				if _, err := runtimeapi.NewImageServiceClient(s.conn).PullImage(t.Context(), request("r.example/app", &runtimeapi.AuthConfig{Username: "u"})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if n := len(s.seen.list()); n != 320 {
		t.Errorf("captured %d", n)
	}
}
