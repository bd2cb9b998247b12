package bench

import (
	"context"
	"errors"

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
	image, err := d.image(ctx)
	if err != nil {
		return err
	}
	if err := d.push(ctx, image); err != nil {
		return err
	}
	d.say("serving %s until interrupted", d.ref)
	<-ctx.Done()
	return nil
}
