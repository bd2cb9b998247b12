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
	traces []string
	bundle bool
}

func (o *startupOptions) addTo(flags *pflag.FlagSet) {
	flags.StringArrayVar(&o.traces, "trace", nil, "also push this trace or list of files, for the platforms that have its layers; repeat for several")
	flags.BoolVar(&o.bundle, "bundle", false, "also push a bundle, if the image has a trace: one blob with exactly what its start reads")
}

// prepare reads what is needed of the time before a conversion. The function that it returns renews
// the start-up artifacts after the conversion.
func (o *startupOptions) prepare(ctx context.Context, client *registry.Client, ref name.Reference, tag *name.Tag, log *slog.Logger) (
	func(ctx context.Context, result *convert.Result) ([]*artifact.Renewed, error), error,
) {
	cfg := artifact.RenewConfig{Bundle: o.bundle, Now: time.Now()}
	for _, path := range o.traces {
		content, err := readTraceFile(path)
		if err != nil {
			return nil, err
		}
		cfg.Content = append(cfg.Content, content)
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
	return func(ctx context.Context, result *convert.Result) ([]*artifact.Renewed, error) {
		target := ref
		if result.Mode == convert.ModeFull && result.Tag != "" {
			var err error
			if target, err = client.ParseReference(result.Tag); err != nil {
				return nil, err
			}
		}
		return renewStartups(ctx, client, target, tag, cfg, log)
	}, nil
}

func renewStartups(ctx context.Context, client *registry.Client, ref name.Reference, tag *name.Tag, cfg artifact.RenewConfig, log *slog.Logger) ([]*artifact.Renewed, error) {
	if len(cfg.Content) == 0 && len(cfg.Previous) == 0 && !cfg.Bundle {
		return nil, nil
	}
	listing, err := client.ResolveAll(ctx, ref)
	if err != nil {
		return nil, err
	}
	var all []*artifact.Renewed
	for _, image := range listing.Images {
		renewed, err := artifact.Renew(ctx, client, image, cfg)
		if errors.Is(err, registry.ErrNoArtifact) {
			continue // the conversion has skipped it, and said why
		}
		if err != nil && len(cfg.Content) == 0 && !cfg.Bundle {
			// The image is converted, and nobody has asked for more.
			log.WarnContext(ctx, "traces of the image before are not kept", "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if renewed == nil {
			continue
		}
		if tag != nil {
			if err := client.ListStartup(ctx, *tag, renewed.Descriptor); err != nil {
				return nil, err
			}
		}
		all = append(all, renewed)
	}
	if len(cfg.Content) > 0 && len(all) == 0 {
		return nil, fmt.Errorf("converted %s, but the traces and lists of files have nothing of it", ref)
	}
	return all, nil
}

func writeRenewed(w io.Writer, all []*artifact.Renewed) error {
	for _, r := range all {
		line := fmt.Sprintf("%s  start-up artifact %s, which reads %s", r.Platform, r.Digest.Short(), units.Size(r.Trace))
		if r.Bundle > 0 {
			line += ", with a bundle of " + units.Size(r.Bundle)
		}
		if r.From != nil {
			line += ", taken over from " + r.From.Short()
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}
