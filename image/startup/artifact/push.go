package artifact

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

// Config says what the start-up artifact of an image is made of.
type Config struct {
	// Files are the traces, the most important one first.
	Files []startup.File
	// Bundle is a bundle that was pushed, nil for none.
	Bundle *registry.BundleBlob
	// Now is the date of the artifact.
	Now time.Time
}

// Push pushes traces as the start-up artifact of an image in place of the previous one, nil if
// there is none. Traces of other commands are carried over from that, predicted ones only as long as
// nothing was recorded; its bundle is not, for it belongs to its trace.
func Push(ctx context.Context, client *registry.Client, image *registry.Image, previous *registry.Startup, cfg Config) (registry.Descriptor, error) {
	doing := "pushing traces of " + image.Name.String()
	if len(cfg.Files) == 0 {
		return registry.Descriptor{}, fmt.Errorf("%s: %w", doing, errors.New("there are none"))
	}
	s := registry.Startup{Bundle: cfg.Bundle}
	for _, f := range cfg.Files {
		encoded, err := f.Encode()
		if err != nil {
			return registry.Descriptor{}, fmt.Errorf("%s: %w", doing, err)
		}
		if err := client.PushBlob(ctx, image.Name.Context(), encoded, registry.TraceMediaType); err != nil {
			return registry.Descriptor{}, err
		}
		s.Traces = append(s.Traces, registry.TraceBlob{
			Digest: block.Sum(encoded), Size: int64(len(encoded)), Command: f.Command, Predicted: f.Predicted,
		})
	}
	if previous != nil {
		s.Traces = carryOver(s.Traces, previous.Traces)
	}
	return client.PushStartup(ctx, image, s, previous, cfg.Now)
}

// carryOver returns the pushed traces, and those of other commands of the previous artifact for
// which there is room.
func carryOver(pushed, previous []registry.TraceBlob) []registry.TraceBlob {
	recorded := slices.ContainsFunc(pushed, func(t registry.TraceBlob) bool { return !t.Predicted })
	for _, old := range previous {
		replaced := slices.ContainsFunc(pushed, func(t registry.TraceBlob) bool {
			return t.Digest == old.Digest || t.Command == old.Command && t.Predicted == old.Predicted
		})
		if !replaced && (!recorded || !old.Predicted) && len(pushed) < registry.MaxTraces {
			pushed = append(pushed, old)
		}
	}
	return pushed
}
