package containerd

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
)

// WithContent calls fn with the content store of a namespace of the containerd on a socket. It returns
// errors of fn unchanged.
func WithContent(ctx context.Context, address, namespace string, fn func(context.Context, content.Provider) error) error {
	return ask(address, func(conn *grpc.ClientConn) error {
		return fn(namespaces.WithNamespace(ctx, namespace), proxy.NewContentStore(conn))
	})
}
