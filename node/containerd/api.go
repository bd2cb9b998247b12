// Package containerd asks a running containerd, and snapshotters, single questions.
package containerd

import (
	"context"
	"errors"
	"fmt"

	introspectionapi "github.com/containerd/containerd/api/services/introspection/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// ask calls fn with a connection to a socket.
func ask(address string, fn func(*grpc.ClientConn) error) (err error) {
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return fn(conn)
}

// Version returns the version of the containerd that answers on a socket.
func Version(ctx context.Context, address string) (string, error) {
	var version string
	err := ask(address, func(conn *grpc.ClientConn) error {
		answer, err := versionapi.NewVersionClient(conn).Version(ctx, &emptypb.Empty{})
		version = answer.GetVersion()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("asking containerd on %s for its version: %w", address, err)
	}
	return version, nil
}

// HasSnapshotter reports whether the containerd that answers on a socket has a
// snapshotter of this name, and could load it.
func HasSnapshotter(ctx context.Context, address, name string) (bool, error) {
	found := false
	err := ask(address, func(conn *grpc.ClientConn) error {
		answer, err := introspectionapi.NewIntrospectionClient(conn).Plugins(ctx, &introspectionapi.PluginsRequest{
			Filters: []string{"type==io.containerd.snapshotter.v1"},
		})
		for _, p := range answer.GetPlugins() {
			found = found || p.GetID() == name && p.GetInitErr() == nil
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("asking containerd on %s for its snapshotters: %w", address, err)
	}
	return found, nil
}

// CheckImageService checks that the image service of the CRI answers on a socket.
func CheckImageService(ctx context.Context, address string) error {
	err := ask(address, func(conn *grpc.ClientConn) error {
		// The request has no fields, and what is answered does not matter here.
		return conn.Invoke(ctx, "/runtime.v1.ImageService/ImageFsInfo", &emptypb.Empty{}, &emptypb.Empty{})
	})
	if err != nil {
		return fmt.Errorf("asking for the image service on %s: %w", address, err)
	}
	return nil
}

// CheckSnapshotter checks that a snapshotter answers requests of containerd on a socket. With wait, it
// waits for the socket until ctx ends.
func CheckSnapshotter(ctx context.Context, address string, wait bool) error {
	err := ask(address, func(conn *grpc.ClientConn) error {
		_, err := snapshotsapi.NewSnapshotsClient(conn).Stat(ctx, &snapshotsapi.StatSnapshotRequest{Key: "none"}, grpc.WaitForReady(wait))
		return err
	})
	if err == nil || status.Code(err) == codes.NotFound {
		return nil
	}
	return fmt.Errorf("asking the snapshotter on %s: %w", address, err)
}
