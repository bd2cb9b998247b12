package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
)

type convertOptions struct {
	*globals
	mode     string
	scratch  string
	known    []string
	tag      string
	parallel int
	reindex  bool
	predict  bool
	output   string
	startup  startupOptions
}

func newConvertCommand(shared *globals) *cobra.Command {
	opts := &convertOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "convert IMAGE",
		Short: "Create and push the index of an image; the image does not change",
		Long: "Read every layer of an image once and push the index: as a referrer of the manifest of\n" +
			"each platform, and under the tag with the suffix \"_accelerated\", so that a copy of that\n" +
			"tag includes the index. Layers that already have an index are not read.\n\n" +
			"Traces that were recorded of the image that the tag named before are kept for the layers\n" +
			"that both have, with their bundle.\n\n" +
			"With --mode full, also recompress every layer so that any part of it can be read alone, and\n" +
			"push the result under the same tag as an image that every container runtime runs. With\n" +
			"--mode auto, do so if at least a tenth of the image is in zstd layers of one long frame,\n" +
			"which cannot be read in parts otherwise.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.run(cmd.Context(), cmd.OutOrStdout(), args[0])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.mode, "mode", string(convert.ModeIndex), "what to create: index, full or auto")
	flags.StringVar(&opts.scratch, "scratch", "", "directory for layers that the registry does not accept in chunks, with --mode full (default: directory for temporary files)")
	flags.StringSliceVar(&opts.known, "base", nil, "reuse the indexes of this image for layers that it shares with IMAGE, such as the base image")
	flags.StringVar(&opts.tag, "tag", "", "tag for the accelerated image index (default: the tag of IMAGE with the suffix \"_accelerated\")")
	flags.IntVar(&opts.parallel, "parallel", 0, "number of layers to read in parallel (default: number of cores)")
	flags.BoolVar(&opts.reindex, "reindex", false, "read every layer, even if it has an index or was converted before")
	flags.BoolVar(&opts.predict, "predict", true, "predict what a start reads from the content of the image, for nodes that know nothing better")
	opts.startup.addTo(flags)
	cli.AddFormat(cmd, &opts.output)
	return cmd
}

func (o *convertOptions) run(ctx context.Context, out io.Writer, image string) error {
	if err := cli.CheckFormat(o.output); err != nil {
		return err
	}
	client, err := o.registryClient()
	if err != nil {
		return err
	}
	defer client.Close()
	ref, err := client.ParseReference(image)
	if err != nil {
		return err
	}
	bars := cli.NewProgress(o.progressTo(), "converting")
	cfg := convert.Config{
		Mode: convert.Mode(o.mode), Scratch: o.scratch, Parallel: o.parallel, Reindex: o.reindex, NoPrediction: !o.predict, Logger: o.logger(),
		Progress: follow(bars),
	}
	if cfg.Known, cfg.Tag, err = o.references(client); err != nil {
		return err
	}
	renew, err := o.startup.prepare(ctx, client, ref, cfg.Tag, cfg.Logger)
	if err != nil {
		return err
	}
	result, err := convert.Convert(ctx, client, ref, cfg)
	if err = errors.Join(err, bars.Finish()); err != nil {
		return err
	}
	converted := conversion{Result: result}
	if converted.Startup, err = renew(ctx, result); err != nil {
		return err
	}
	return cli.Print(out, o.output, converted, func(w io.Writer) error {
		return errors.Join(writeConversion(w, result), writeRenewed(w, converted.Startup))
	})
}

func (o *convertOptions) references(client *registry.Client) (known []name.Reference, tag *name.Tag, err error) {
	for _, text := range o.known {
		ref, err := client.ParseReference(text)
		if err != nil {
			return nil, nil, fmt.Errorf("--base: %w", err)
		}
		known = append(known, ref)
	}
	if o.tag == "" {
		return known, nil, nil
	}
	ref, err := client.ParseReference(o.tag)
	if err != nil {
		return nil, nil, fmt.Errorf("--tag: %w", err)
	}
	parsed, ok := ref.(name.Tag)
	if !ok {
		return nil, nil, fmt.Errorf("--tag %q is a digest, not a tag", o.tag)
	}
	return known, &parsed, nil
}

// follow draws the events of a conversion as a bar.
func follow(bars *cli.Progress) func(convert.Event) {
	read := make(map[block.Digest]int64)
	return func(e convert.Event) {
		switch e.Kind {
		case convert.Planned:
			bars.Grow(e.Total)
		case convert.Reused:
			bars.Add(e.Total)
		case convert.Reading:
			bars.Add(e.Read - read[e.Layer])
			read[e.Layer] = e.Read
		case convert.Indexed:
			bars.Add(e.Total - read[e.Layer])
		}
	}
}

func writeConversion(out io.Writer, result *convert.Result) error {
	if result.Reason != "" {
		if _, err := fmt.Fprintf(out, "mode %s: %s\n", result.Mode, result.Reason); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
	}
	table := cli.NewTable(out)
	table.Row("LAYER", "COMPRESSED", "UNCOMPRESSED", "FULL", "INDEX", "ENTRIES", "FRAMES", "")
	for _, l := range result.Layers {
		how := fmt.Sprintf("read in %.1f s", l.Elapsed.Seconds())
		if l.Reused {
			how = "had an index"
		}
		full := "-"
		if l.FullSize > 0 {
			full = units.Size(l.FullSize)
		}
		table.Row(shortDigest(l.Digest.String()), units.Size(l.BlobSize), units.Size(l.StreamSize), full, units.Size(l.IndexSize),
			strconv.Itoa(l.Entries), strconv.Itoa(l.Frames), how)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, p := range result.Platforms {
		what := "index " + p.Artifact.String()
		if !p.Full.IsZero() {
			what = "image " + p.Full.String() + ", " + what
		}
		if p.Skipped != "" {
			what = "no index: " + p.Skipped
		}
		if p.Predicted > 0 {
			what += ", a start is predicted to read " + units.Size(p.Predicted)
		}
		if _, err := fmt.Fprintf(out, "%s  %s\n", p.Platform, what); err != nil {
			return fmt.Errorf("printing: %w", err)
		}
	}
	if result.Tag == "" {
		return nil
	}
	_, err := fmt.Fprintf(out, "accelerated image index  %s\n", result.Tag)
	return err
}
