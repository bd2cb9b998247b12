package criproxy

import (
	"context"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// relay hands single calls on.
type relay struct {
	proxy   *Proxy
	runtime *grpc.ClientConn
}

// handle hands one call on, whatever its method. Every call is treated as a stream in
// both directions, which a call with one message each way looks like on the wire.
func (r *relay) handle(_ any, caller grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(caller)
	if !ok {
		return status.Error(codes.Internal, "call without a method")
	}
	r.proxy.streams.Inc()
	defer r.proxy.streams.Dec()
	// The deadline of the caller is one of its context.
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(caller.Context(), passed(caller.Context())))
	defer cancel()
	callee, err := r.runtime.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	var look func(*frame)
	if pulls(method) {
		look = r.proxy.look
	}
	go func() {
		if err := requests(caller, callee, look); err != nil {
			cancel() // the caller is gone
		}
	}()
	return answers(caller, callee)
}

// pulls reports whether a method pulls an image, in any version of the interface.
func pulls(method string) bool {
	return strings.HasPrefix(method, "/runtime.v") && strings.HasSuffix(method, ".ImageService/PullImage")
}

// passed is the metadata of a call without what gRPC itself adds to every call.
func passed(ctx context.Context) metadata.MD {
	md, _ := metadata.FromIncomingContext(ctx)
	md = md.Copy()
	for _, own := range []string{":authority", "content-type", "user-agent", "grpc-accept-encoding"} {
		md.Delete(own)
	}
	return md
}

// requests hands on what the caller sends, to its end. An error is the caller's: what
// the callee has to say, answers hears.
func requests(caller grpc.ServerStream, callee grpc.ClientStream, look func(*frame)) error {
	for {
		var f frame
		err := caller.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			return callee.CloseSend()
		}
		if err != nil {
			return err
		}
		if look != nil {
			look(&f)
		}
		if err := callee.SendMsg(&f); err != nil {
			return nil //nolint:nilerr // answers gets the reason
		}
	}
}

// answers hands on what the callee sends, to its end, and returns how that was.
func answers(caller grpc.ServerStream, callee grpc.ClientStream) error {
	header, err := callee.Header()
	if err == nil && len(header) > 0 {
		// Not only with the first message: some streams wait long for that.
		header.Delete("content-type")
		err = caller.SendHeader(header)
		if err != nil {
			return err
		}
	}
	for {
		var f frame
		err := callee.RecvMsg(&f)
		if err != nil {
			caller.SetTrailer(callee.Trailer())
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := caller.SendMsg(&f); err != nil {
			return err
		}
	}
}

// look captures the credential of a pull.
func (p *Proxy) look(f *frame) {
	result := "none"
	found, err := parsePull(f.data.Materialize())
	if err == nil && found != nil {
		result = "captured"
		err = p.cfg.Capture(found.repo, found.auth)
	}
	if err != nil {
		result = "unusable"
		p.log.Warn("a credential that kubelet pulls with cannot be used", "error", err)
	}
	p.pulls.WithLabelValues(result).Inc()
}
