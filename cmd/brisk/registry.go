package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
)

// startupPatience is how long a command waits for a start-up artifact that it works on.
const startupPatience = 10 * time.Second

// registryClient makes the client that commands find images with.
func (g *globals) registryClient() (*registry.Client, error) {
	return registry.NewClient(registry.Config{
		PlainHTTP:    func(string) bool { return g.plainHTTP },
		StartupGrace: startupPatience,
		Logger:       g.logger(),
	})
}

// mountClient makes the client of a mount, which waits no longer for hints than a node does. The
// function is told of each request, if it is not nil.
func (g *globals) mountClient(onRequest func(registry.Exchange)) (*registry.Client, error) {
	return registry.NewClient(registry.Config{
		PlainHTTP: func(string) bool { return g.plainHTTP },
		OnRequest: onRequest,
		Logger:    g.logger(),
	})
}

// indexed is an image with the index of each of its layers.
type indexed struct {
	image    *registry.Image
	artifact *registry.Artifact
	layers   []*index.Layer
}

// openIndexed resolves an image and fetches its indexes.
func openIndexed(ctx context.Context, client *registry.Client, reference string, platform v1.Platform) (*indexed, error) {
	ref, err := client.ParseReference(reference)
	if err != nil {
		return nil, err
	}
	return openReference(ctx, client, ref, platform)
}

// openReference is [openIndexed] for a reference.
func openReference(ctx context.Context, client *registry.Client, ref name.Reference, platform v1.Platform) (*indexed, error) {
	image, err := client.Resolve(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	artifact, err := client.FindArtifact(ctx, image)
	if err != nil {
		return nil, err
	}
	layers, err := client.LayerIndexes(ctx, image, artifact)
	if err != nil {
		return nil, fmt.Errorf("reading the index of %s: %w", ref, err)
	}
	return &indexed{image: image, artifact: artifact, layers: layers}, nil
}
