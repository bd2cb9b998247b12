package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/brisk-project/brisk/internal/localregistry"
)

// Serve serves the image of the demo, without an index, from a registry on an address of this
// machine until ctx ends. It needs no root. Everything that is pushed is lost at the end.
func Serve(ctx context.Context, cfg DemoConfig, addr string) (err error) {
	d := &demo{cfg: cfg}
	// First, because it fails at once if the address is in use.
	d.registry, err = localregistry.Start(ctx, localregistry.Config{Addr: addr, Root: d.path("registry")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.registry.Close()) }()
	if d.ref, err = name.ParseReference(d.registry.Addr() + "/" + repository); err != nil {
		return fmt.Errorf("naming the demo image: %w", err)
	}
	image, err := d.image(ctx)
	if err != nil {
		return err
	}
	if err := remote.Write(d.ref, image, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing the demo image: %w", err)
	}
	d.say("serving %s until interrupted", d.ref)
	<-ctx.Done()
	return nil
}
