package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/pflag"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/internal/units"
)

// startupOptions are the options of a conversion that are about traces.
type startupOptions struct {
	traces   []string
	bundle   bool
	prefetch string
	strict   bool
}

func (o *startupOptions) addTo(flags *pflag.FlagSet) {
	flags.StringArrayVar(&o.traces, "trace", nil, "also push this trace or list of files, for the platforms that have its layers; repeat for several")
	flags.BoolVar(&o.bundle, "bundle", false, "also push a bundle, if the image has a trace: one blob with exactly what its start reads")
	flags.StringVar(&o.prefetch, "prefetch", "", "also push this list of files, which nodes load first, see \"brisk prefetch set\" (\"-\" is standard input)")
	flags.BoolVar(&o.strict, "strict", false, "fail if a line of --prefetch matches no file on any platform")
}

// prepare reads what is needed of the time before a conversion. The function that it returns renews
// the start-up artifacts after the conversion.
func (o *startupOptions) prepare(ctx context.Context, client *registry.Client, ref name.Reference, tag *name.Tag, log *slog.Logger) (
	func(ctx context.Context, result *convert.Result) ([]*artifact.UpdateResult, error), error,
) {
	cfg := artifact.UpdateConfig{Bundle: o.bundle, Now: time.Now()}
	for _, path := range o.traces {
		content, err := readTraceFile(path)
		if err != nil {
			return nil, err
		}
		cfg.Inputs = append(cfg.Inputs, content)
	}
	if o.prefetch != "" {
		var err error
		if cfg.List, err = readPrefetchList(o.prefetch); err != nil {
			return nil, err
		}
	}
	accelerated := tag
	if named, ok := ref.(name.Tag); ok && tag == nil {
		of := registry.AcceleratedTag(named)
		accelerated = &of
	}
	if accelerated != nil {
		listed, err := client.ListedUnder(ctx, *accelerated)
		if err != nil {
			// The conversion says what is wrong with the registry. What is no image index is replaced.
			log.InfoContext(ctx, "traces of the image before are not known", "error", err)
		}
		cfg.Previous = slices.DeleteFunc(listed, func(d registry.Descriptor) bool { return !d.Startup })
	}
	return func(ctx context.Context, result *convert.Result) ([]*artifact.UpdateResult, error) {
		target := ref
		if result.Mode == convert.ModeFull && result.Tag != "" {
			var err error
			if target, err = client.ParseReference(result.Tag); err != nil {
				return nil, err
			}
		}
		return renewStartups(ctx, client, renewal{ref: target, tag: tag, strict: o.strict, UpdateConfig: cfg}, log)
	}, nil
}

// renewal says for which images start-up artifacts are renewed.
type renewal struct {
	artifact.UpdateConfig

	ref    name.Reference
	tag    *name.Tag // under which they are listed as well, nil for none
	strict bool      // each line of the prefetch list must match a file on some platform
}

func renewStartups(ctx context.Context, client *registry.Client, r renewal, log *slog.Logger) ([]*artifact.UpdateResult, error) {
	asked := len(r.Inputs) > 0 || r.Bundle || r.List != nil
	if !asked && len(r.Previous) == 0 {
		return nil, nil
	}
	listing, err := client.ResolveAll(ctx, r.ref)
	if err != nil {
		return nil, err
	}
	if r.strict && r.List != nil {
		if err := requireMatches(ctx, client, listing.Images, r.List); err != nil {
			return nil, fmt.Errorf("converted %s, but: %w", r.ref, err)
		}
	}
	var all []*artifact.UpdateResult
	for _, image := range listing.Images {
		renewed, err := r.renew(ctx, client, image)
		switch {
		case errors.Is(err, registry.ErrNoArtifact): // the conversion has skipped it, and said why
		case err != nil && !asked:
			// The image is converted, and nobody has asked for more.
			log.WarnContext(ctx, "traces of the image before are not kept", "error", err)
		case err != nil:
			return nil, err
		case renewed != nil:
			all = append(all, renewed)
		}
	}
	if len(r.Inputs) > 0 && len(all) == 0 {
		return nil, fmt.Errorf("converted %s, but the traces and lists of files have nothing of it", r.ref)
	}
	return all, nil
}

// renew renews the artifact of one image, and lists it under the other tag.
func (r *renewal) renew(ctx context.Context, client *registry.Client, image *registry.Image) (*artifact.UpdateResult, error) {
	renewed, err := artifact.Update(ctx, client, image, r.UpdateConfig)
	if err != nil || renewed == nil || r.tag == nil {
		return renewed, err
	}
	return renewed, client.ListStartup(ctx, *r.tag, renewed.Descriptor)
}

func writeRenewed(w io.Writer, all []*artifact.UpdateResult) error {
	for _, r := range all {
		line := fmt.Sprintf("%s  start-up artifact %s, which reads %s", r.Platform, r.Digest.Short(), units.Size(r.Trace))
		if r.Unchanged {
			line += ", as before"
		}
		if r.Bundle > 0 {
			line += ", with a bundle of " + units.Size(r.Bundle)
		}
		if r.From != nil {
			line += ", taken over from " + r.From.Short()
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
		if err := writePrefetched(w, r); err != nil {
			return err
		}
	}
	return nil
}
