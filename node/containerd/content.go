package containerd

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"google.golang.org/grpc"
)

// Content calls fn with what the containerd that answers on a socket keeps of images in
// a namespace. Errors of fn are returned as they are.
func Content(ctx context.Context, address, namespace string, fn func(context.Context, content.Provider) error) error {
	return ask(address, func(conn *grpc.ClientConn) error {
		return fn(namespaces.WithNamespace(ctx, namespace), proxy.NewContentStore(conn))
	})
}
