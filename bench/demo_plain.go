package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"
)

// plainDownloads is how many layers a plain pull downloads at a time: the default
// of containerd's CRI plugin.
const plainDownloads = 3

// plainPull does what a container runtime does without lazy loading: it downloads
// the layers side by side to disk and unpacks each as soon as it and all layers
// below it are there, with containerd's own code, into root.
func plainPull(ctx context.Context, ref name.Reference, blobs, root string) error {
	image, err := remote.Image(ref, remote.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("resolving %s: %w", ref, err)
	}
	layers, err := image.Layers()
	if err != nil {
		return fmt.Errorf("reading manifest of %s: %w", ref, err)
	}
	arrived := make([]chan struct{}, len(layers))
	for i := range arrived {
		arrived[i] = make(chan struct{})
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		downloads, ctx := errgroup.WithContext(ctx)
		downloads.SetLimit(plainDownloads)
		for i, layer := range layers {
			downloads.Go(func() error {
				if err := download(ctx, layer, blobPath(blobs, i)); err != nil {
					return err
				}
				close(arrived[i])
				return nil
			})
		}
		return downloads.Wait()
	})
	group.Go(func() error {
		for i := range layers {
			select {
			case <-arrived[i]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if err := unpack(ctx, blobPath(blobs, i), root); err != nil {
				return fmt.Errorf("unpacking layer %d: %w", i, err)
			}
		}
		return nil
	})
	return group.Wait()
}

func blobPath(dir string, layer int) string { return filepath.Join(dir, fmt.Sprintf("layer%d", layer)) }

func download(ctx context.Context, layer v1.Layer, file string) (err error) {
	blob, err := layer.Compressed()
	if err != nil {
		return fmt.Errorf("downloading layer: %w", err)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	stop := context.AfterFunc(ctx, func() { _ = blob.Close() }) //nolint:errcheck // ends the copy below, which reports
	defer stop()
	out, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("storing layer: %w", err)
	}
	if _, err := io.Copy(out, blob); err != nil {
		return errors.Join(fmt.Errorf("downloading layer: %w", err), out.Close())
	}
	return out.Close()
}

func unpack(ctx context.Context, file, root string) (err error) {
	blob, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	stream, err := compression.DecompressStream(blob)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	if _, err := archive.Apply(ctx, root, stream); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, stream)
	return err
}
