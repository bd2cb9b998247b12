package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/transfer"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
)

func newCopyCommand(shared *globals) *cobra.Command {
	var output string
	var limit cli.ByteRate
	var cfg transfer.Config
	cmd := &cobra.Command{
		Use:   "copy SOURCE DESTINATION",
		Short: "Copy an image with its index, traces, signatures and attestations",
		Long: "Copy an image with everything that belongs to it: all platforms, indexes, traces and\n" +
			"bundles, signatures and other referrers, and the tag with the suffix \"_accelerated\".\n" +
			"Digests do not change. What the destination has is not copied again.\n\n" + imagesHelp,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := cli.CheckFormat(output); err != nil {
				return err
			}
			cfg.Logger = shared.logger()
			client, err := shared.imageClient(limit)
			if err != nil {
				return err
			}
			return copyImage(cmd.Context(), client, cmd.OutOrStdout(), args, output, cfg)
		},
	}
	cli.AddFormat(cmd, &output)
	cmd.Flags().IntVar(&cfg.Parallel, "concurrency", 0, "number of blobs to copy in parallel (default: 4)")
	addLimitRate(cmd.Flags(), &limit)
	cmd.Flags().StringSliceVar(&cfg.Suffixes, "tag-suffix", []string{registry.AcceleratedSuffix}, "also copy the tag of the image with this suffix; can be repeated")
	return cmd
}

func copyImage(ctx context.Context, client *imageClient, out io.Writer, args []string, output string, cfg transfer.Config) error {
	result, err := client.copy(ctx, args[0], args[1], cfg)
	if err = client.end(ctx, err); err != nil {
		return err
	}
	return cli.Print(out, output, result, func(w io.Writer) error { return writeCopy(w, result) })
}

// copy copies an image and names it as the user does.
func (c *imageClient) copy(ctx context.Context, source, destination string, cfg transfer.Config) (*transfer.Result, error) {
	src, err := c.parse(source, false)
	if err != nil {
		return nil, err
	}
	dst, err := c.parse(destination, true)
	if err != nil {
		return nil, err
	}
	result, err := transfer.Copy(ctx, c.Client, src, dst, cfg)
	if err != nil {
		return nil, err
	}
	result.Source, result.Destination = c.files.Text(result.Source), c.files.Text(result.Destination)
	for i, tag := range result.Tags {
		result.Tags[i] = c.files.Text(tag)
	}
	return result, nil
}

func writeCopy(out io.Writer, r *transfer.Result) error {
	_, err := fmt.Fprintf(out, "%s  copied to %s: %d manifests, %d of them referrers, %d blobs, %s\n",
		r.Digest, r.Destination, r.Manifests, r.Referrers, r.Blobs, units.Size(r.Bytes))
	for _, missing := range r.Missing {
		if err == nil {
			_, err = fmt.Fprintf(out, "%s  is listed but not in the source\n", missing)
		}
	}
	return err
}
