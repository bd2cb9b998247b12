package main

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
)

// registryClient makes the client that all commands find images with.
func (g *globals) registryClient() (*registry.Client, error) { return g.observedClient(nil) }

// observedClient is registryClient with a function that is told of each request.
func (g *globals) observedClient(onRequest func(registry.Exchange)) (*registry.Client, error) {
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
