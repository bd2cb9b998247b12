package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/layout"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/throttle"
)

// imagesHelp is the part of a command's help that says where images may be.
const imagesHelp = "An image is in a registry, or in files:\n" +
	"  oci:DIR[:TAG]               directory with an OCI image layout\n" +
	"  oci-archive:FILE[:TAG]      tar of an OCI image layout\n" +
	"  docker-archive:FILE[:NAME]  output of \"docker save\"; can only be read"

// imageClient is a client of registries, and of images in files as if they were in one.
type imageClient struct {
	*registry.Client

	files *layout.Host
}

// imageClient makes the client of a command. What it exchanges with registries is limited to
// bytesPerSecond, 0 for no limit.
func (g *globals) imageClient(bytesPerSecond cli.ByteRate) (*imageClient, error) {
	var transport http.RoundTripper = registry.NewTransport()
	if bytesPerSecond > 0 {
		var err error
		if transport, err = throttle.NewTransport(transport, int64(bytesPerSecond)); err != nil {
			return nil, fmt.Errorf("--limit-rate: %w", err)
		}
	}
	files := layout.NewHost(transport)
	client, err := registry.NewClient(registry.Config{
		PlainHTTP: func(host string) bool { return g.plainHTTP || files.Serves(host) },
		Transport: files, StartupGrace: startupPatience,
		Logger: g.logger(),
	})
	if err != nil {
		return nil, err
	}
	return &imageClient{Client: client, files: files}, nil
}

// parse returns the reference of an image, which is going to be written to if write is set.
func (c *imageClient) parse(text string, write bool) (name.Reference, error) {
	if layout.IsFile(text) {
		return c.files.Open(text, write)
	}
	return c.ParseReference(text)
}

// end closes the client after a command that led to err. Archives are written if that is nil.
func (c *imageClient) end(ctx context.Context, err error) error {
	c.Close()
	closeErr := c.files.Close(context.WithoutCancel(ctx), err == nil)
	if err == nil {
		return closeErr
	}
	return errors.Join(&fileError{err, c.files.Text(err.Error())}, closeErr)
}

// fileError calls images in files what the user calls them.
type fileError struct {
	err  error
	text string
}

// Error implements error.
func (e *fileError) Error() string { return e.text }

// Unwrap returns the error as it was.
func (e *fileError) Unwrap() error { return e.err }
