package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/signing"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/image/transfer"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
)

type convertOptions struct {
	*globals
	mode     string
	scratch  string
	known    []string
	platform []string
	tag      string
	suffix   string
	parallel int
	record   time.Duration
	limit    cli.ByteRate
	reindex  bool
	predict  bool
	output   string
	startup  startupOptions
	sign     signOptions
}

func newConvertCommand(shared *globals) *cobra.Command {
	opts := &convertOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "convert IMAGE [DESTINATION]",
		Short: "Create and push the index of an image; the image does not change",
		Long: "Read every layer of an image once and push the index: as a referrer of the manifest of\n" +
			"each platform, and under the tag with the suffix \"_accelerated\", so that a copy of that\n" +
			"tag includes the index. Layers that already have an index are not read.\n\n" +
			"Traces that were recorded of the image that the tag named before are kept for the layers\n" +
			"that both have, with their bundle.\n\n" +
			"With --mode full, also recompress every layer so that any part of it can be read alone, and\n" +
			"push the result under the same tag as an image that every container runtime runs. With\n" +
			"--mode auto, do so if at least a tenth of the image is in zstd layers of one long frame,\n" +
			"which cannot be read in parts otherwise.\n\n" +
			"With DESTINATION, the image is first copied there with everything that belongs to it.\n\n" + imagesHelp,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.run(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.mode, "mode", string(convert.ModeIndex), "what to create: index, full or auto")
	flags.StringVar(&opts.scratch, "scratch", "", "directory for layers that the registry does not accept in chunks, with --mode full (default: directory for temporary files)")
	flags.StringSliceVar(&opts.known, "base", nil, "reuse the indexes of this image for layers that it shares with IMAGE, such as the base image")
	flags.StringSliceVar(&opts.platform, "platform", nil,
		"convert the image for this platform only, such as linux/arm64; can be repeated (default: all platforms)")
	flags.Bool("all-platforms", false, "convert all platforms (the default)")
	cmd.MarkFlagsMutuallyExclusive("platform", "all-platforms")
	flags.StringVar(&opts.tag, "tag", "", "tag for the accelerated image index (default: the tag of the image with the suffix)")
	flags.StringVar(&opts.suffix, "tag-suffix", registry.AcceleratedSuffix,
		"suffix of the tag for the accelerated image index; nodes look there only for the default, and find any by the referrers")
	cmd.MarkFlagsMutuallyExclusive("tag", "tag-suffix")
	flags.IntVar(&opts.parallel, "concurrency", 0, "number of layers to read in parallel (default: number of cores)")
	flags.IntVar(&opts.parallel, "parallel", 0, "number of layers to read in parallel")
	cobra.CheckErr(flags.MarkDeprecated("parallel", "use --concurrency")) // fails only for flags that do not exist
	flags.DurationVar(&opts.record, "checkpoint", 10*time.Second,
		"record finished layers in the registry after this time, and again each time it has doubled, so that the next conversion continues an interrupted one; negative: never")
	addLimitRate(flags, &opts.limit)
	flags.BoolVar(&opts.reindex, "reindex", false, "read every layer, even if it has an index or was converted before")
	flags.BoolVar(&opts.predict, "predict", true, "predict what a start reads from the content of the image, for nodes that know nothing better")
	opts.startup.addTo(flags)
	opts.sign.addTo(flags, "sign", "sign the index and the start-up artifact with this private key: a file such as cosign.key, or the URI of a key in a KMS; repeat for several keys")
	cli.AddFormat(cmd, &opts.output)
	return cmd
}

func (o *convertOptions) run(ctx context.Context, out io.Writer, args []string) error {
	if err := cli.CheckFormat(o.output); err != nil {
		return err
	}
	client, err := o.imageClient(o.limit)
	if err != nil {
		return err
	}
	report, err := o.convert(ctx, client, args)
	if err = client.end(ctx, err); err != nil {
		return err
	}
	return cli.Print(out, o.output, report, report.writeTable)
}

// convert copies the image if there is a destination, and converts it there.
func (o *convertOptions) convert(ctx context.Context, client *imageClient, args []string) (*conversionReport, error) {
	report := &conversionReport{}
	signers, err := o.sign.load(ctx)
	if err != nil {
		return nil, err
	}
	target := args[len(args)-1]
	if len(args) > 1 {
		report.Copied, err = client.copy(ctx, args[0], target, transfer.Config{Suffixes: []string{}, Logger: o.logger()})
		if err != nil {
			return nil, err
		}
	}
	ref, err := client.parse(target, true)
	if err != nil {
		return nil, err
	}
	limitMemory(convert.Mode(o.mode))
	transfers := o.transfers()
	cfg := convert.Config{
		Mode: convert.Mode(o.mode), TempDir: o.scratch, Parallel: o.parallel, Checkpoint: o.record, Reindex: o.reindex, NoPrediction: !o.predict, Suffix: o.suffix,
		Logger: o.logger(), Progress: follow(transfers),
	}
	if cfg.ReuseFrom, cfg.Tag, err = o.references(client.Client); err != nil {
		return nil, err
	}
	for _, text := range o.platform {
		platform, err := parsePlatform(text)
		if err != nil {
			return nil, err
		}
		cfg.Platforms = append(cfg.Platforms, platform)
	}
	renew, err := o.startup.prepare(ctx, client.Client, ref, o.otherTag(ref, cfg.Tag), cfg.Logger)
	if err != nil {
		return nil, err
	}
	report.Result, err = convert.Convert(ctx, client.Client, ref, cfg)
	if err = errors.Join(err, transfers.Close()); err != nil {
		return nil, err
	}
	if report.Startup, err = renew(ctx, report.Result); err != nil {
		return nil, err
	}
	if report.Signed, err = o.signResult(ctx, client.Client, ref, report.Result, signers); err != nil {
		return nil, err
	}
	report.Tag = client.files.Text(report.Tag)
	return report, nil
}

// otherTag returns the tag for the accelerated image index, nil if it is the one of each image.
func (o *convertOptions) otherTag(ref name.Reference, tag *name.Tag) *name.Tag {
	named, ok := ref.(name.Tag)
	if tag != nil || !ok || o.suffix == registry.AcceleratedSuffix {
		return tag
	}
	other := registry.TagWithSuffix(named, o.suffix)
	return &other
}

// conversionReport is the output of "brisk convert".
type conversionReport struct {
	*convert.Result

	// Startup are the start-up artifacts that were pushed.
	Startup []*artifact.UpdateResult `json:"startup,omitempty"`
	// Signed are the artifacts that have a signature by each key, if any was given.
	Signed []*signing.Artifact `json:"signed,omitempty"`
	// Copied is what was copied to the destination before, nil without one.
	Copied *transfer.Result `json:"copied,omitempty"`
}

func (r *conversionReport) writeTable(out io.Writer) error {
	if r.Copied != nil {
		if err := writeCopy(out, r.Copied); err != nil {
			return err
		}
	}
	return errors.Join(writeConversion(out, r.Result), writeRenewed(out, r.Startup), writeSigned(out, r.Signed))
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

// follow shows the events of a conversion.
func follow(transfers *cli.Transfers) func(convert.Event) {
	return func(e convert.Event) {
		layer := e.Layer.Short()
		switch e.Kind {
		case convert.LayerPlanned:
			transfers.Plan(layer, e.TotalBytes)
		case convert.LayerReused:
			transfers.Skip(layer)
		case convert.LayerReading, convert.LayerIndexed:
			transfers.Advance(layer, e.ReadBytes)
		}
	}
}

// addLimitRate adds the flag of commands that move layers.
func addLimitRate(flags *pflag.FlagSet, limit *cli.ByteRate) {
	flags.Var(limit, "limit-rate", "most bytes a second to exchange with registries in all, such as 20Mi, or 200Mbit for bits (default: no limit)")
}

// layerNote says what was done for a layer.
func layerNote(l convert.Layer) string {
	switch {
	case l.Reused:
		return "had an index"
	case l.Streamed:
		return fmt.Sprintf("read in %.1f s; can only be streamed, unless converted with --mode full", l.Elapsed.Seconds())
	default:
		return fmt.Sprintf("read in %.1f s", l.Elapsed.Seconds())
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
		full := "-"
		if l.FullSize > 0 {
			full = units.Size(l.FullSize)
		}
		table.Row(shortDigest(l.Digest.String()), units.Size(l.BlobSize), units.Size(l.StreamSize), full, units.Size(l.IndexSize),
			strconv.Itoa(l.Entries), strconv.Itoa(l.Frames), layerNote(l))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, p := range result.Platforms {
		what := "index " + p.Artifact.String()
		if !p.FullManifest.IsZero() {
			what = "image " + p.FullManifest.String() + ", " + what
		}
		if p.Skipped != "" {
			what = "no index: " + p.Skipped
		}
		if p.PredictedBytes > 0 {
			what += ", a start is predicted to read " + units.Size(p.PredictedBytes)
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
