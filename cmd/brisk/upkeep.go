package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/upkeep"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
)

// upkeepOptions are the flags of all commands that list or remove indexes.
type upkeepOptions struct {
	*globals

	output, suffix string
}

func (o *upkeepOptions) addTo(cmd *cobra.Command) *cobra.Command {
	cli.AddFormat(cmd, &o.output)
	cmd.Flags().StringVar(&o.suffix, "tag-suffix", registry.AcceleratedSuffix, "suffix of the tags of accelerated image indexes")
	return cmd
}

// run calls work with a client and the references that texts name, and prints what it returns.
func (o *upkeepOptions) run(
	cmd *cobra.Command, texts []string, work func(context.Context, *registry.Client, []name.Reference) (any, func(io.Writer) error, error),
) error {
	if err := cli.CheckFormat(o.output); err != nil {
		return err
	}
	client, err := o.registryClient()
	if err != nil {
		return err
	}
	defer client.Close()
	var refs []name.Reference
	for _, text := range texts {
		ref, err := client.ParseReference(text)
		if err != nil {
			return err
		}
		refs = append(refs, ref)
	}
	result, text, err := work(cmd.Context(), client, refs)
	if err != nil {
		return err
	}
	return cli.Print(cmd.OutOrStdout(), o.output, result, text)
}

// repositoryArg accepts one argument, a repository without tag or digest.
func repositoryArg(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return err
	}
	if last := args[0][strings.LastIndex(args[0], "/")+1:]; strings.ContainsAny(last, ":@") {
		return fmt.Errorf("%q names an image; name its repository, without tag or digest", args[0])
	}
	return nil
}

func newListCommand(shared *globals) *cobra.Command {
	opts := &upkeepOptions{globals: shared}
	return opts.addTo(&cobra.Command{
		Use:   "ls REPOSITORY",
		Short: "List the images of a repository with their indexes, traces and signatures",
		Long: "List the tags of a repository: whether they have an index, in which mode, what it takes,\n" +
			"their traces and signatures, and whether the tag has moved since it was converted.\n\n" +
			"Signatures are counted, not verified.",
		Args: repositoryArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.run(cmd, args, func(ctx context.Context, client *registry.Client, refs []name.Reference) (any, func(io.Writer) error, error) {
				list, err := upkeep.List(ctx, client, refs[0].Context(), opts.suffix)
				return list, func(w io.Writer) error { return writeTags(w, list) }, err
			})
		},
	})
}

func newRemoveCommand(shared *globals) *cobra.Command {
	opts := &upkeepOptions{globals: shared}
	var cfg upkeep.RemoveConfig
	cmd := opts.addTo(&cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove the index and all that belongs to it, not the image",
		Long: "Remove the acceleration of images of one repository: their accelerated tag, index, traces\n" +
			"and bundle, the image in full mode, and signatures of these. The image itself stays.\n\n" +
			"If other tags list a part of it, nothing is removed, unless --keep-shared is set. An index\n" +
			"belongs to all tags of its image: those that lose it are printed.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.run(cmd, args, func(ctx context.Context, client *registry.Client, refs []name.Reference) (any, func(io.Writer) error, error) {
				cfg.Suffix = opts.suffix
				removal, err := upkeep.Remove(ctx, client, refs, cfg)
				if _, needed := errors.AsType[*upkeep.NeededError](err); needed {
					err = fmt.Errorf("%w; name those images as well, or use --keep-shared", err)
				}
				return removal, func(w io.Writer) error { return writeRemoval(w, removal) }, err
			})
		},
	})
	cmd.Flags().BoolVar(&cfg.DryRun, "dry-run", false, "print what would be removed, and remove nothing")
	cmd.Flags().BoolVar(&cfg.KeepShared, "keep-shared", false, "keep what other tags list, and remove the rest")
	return cmd
}

func newCollectCommand(shared *globals) *cobra.Command {
	opts := &upkeepOptions{globals: shared}
	var cfg upkeep.CollectConfig
	cmd := opts.addTo(&cobra.Command{
		Use:   "gc REPOSITORY",
		Short: "Find indexes and traces that nothing uses, and remove them with --yes",
		Long: "Find what conversions have left in a repository and nothing uses any more: indexes and\n" +
			"traces whose image is gone, those that newer ones supersede, and accelerated tags of which\n" +
			"no image is left. Without --yes, print it and remove nothing.\n\n" +
			"An index has no date, and a conversion that is running lists its index at its end. So\n" +
			"superseded indexes are only removed with --grace 0, for when no conversion is running.",
		Args: repositoryArg,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cfg.Grace == 0 {
				cfg.Grace = -1
			}
			return opts.run(cmd, args, func(ctx context.Context, client *registry.Client, refs []name.Reference) (any, func(io.Writer) error, error) {
				cfg.Suffix = opts.suffix
				found, err := upkeep.Collect(ctx, client, refs[0].Context(), cfg)
				return found, func(w io.Writer) error { return writeCollection(w, found) }, err
			})
		},
	})
	cmd.Flags().BoolVar(&cfg.Remove, "yes", false, "remove what is found")
	cmd.Flags().DurationVar(&cfg.Grace, "grace", time.Hour, "keep what is superseded but younger than this")
	cmd.Flags().BoolVar(&cfg.DeletedTags, "deleted-tags", false, "also remove accelerated tags whose own tag is gone; images that were copied by their accelerated tag alone look the same")
	return cmd
}

func writeTags(out io.Writer, list *upkeep.Listing) error {
	table := cli.NewTable(out)
	table.Row("TAG", "MODE", "PLATFORMS", "SIZE", "FULL", "INDEX", "OF IMAGE", "TRACES", "PREDICTED", "SIGNATURES", "INDEX SIGNATURES", "")
	for _, t := range list.Tags {
		note := t.Unreadable
		if t.Stale {
			note = "stale: the tag has moved since it was converted"
		}
		mode, full, share := strings.Join(t.Modes, ","), "-", "-"
		if t.FullSize > 0 {
			full = units.Size(t.FullSize)
		}
		if mode == "" {
			mode = "-"
		} else {
			share = fmt.Sprintf("%.2f %%", t.IndexPercent)
		}
		table.Row(t.Tag, mode, fmt.Sprintf("%d/%d", t.Indexed, t.Platforms), units.Size(t.Size), full, units.Size(t.IndexSize), share,
			strconv.Itoa(t.Traces), strconv.Itoa(t.Predicted), strconv.Itoa(t.ImageSignatures), strconv.Itoa(t.IndexSignatures), note)
	}
	err := table.Flush()
	if list.Incomplete != "" && err == nil {
		_, err = fmt.Fprintf(out, "The registry does not list referrers; this is what its tags list: %s\n", list.Incomplete)
	}
	return err
}

func writeRemoval(out io.Writer, r *upkeep.Removal) error {
	if len(r.Removed) == 0 {
		_, err := fmt.Fprintln(out, "nothing to remove")
		return err
	}
	err := writeItems(out, r.Removed, r.DryRun, r.Freed)
	for _, need := range r.Kept {
		if err == nil {
			_, err = fmt.Fprintf(out, "%s %s is kept: %s\n", need.Kind, need.Digest, strings.Join(need.By, ", "))
		}
	}
	for _, tag := range r.Affected {
		if err == nil {
			_, err = fmt.Fprintf(out, "%s is the same image, and has no index either\n", tag)
		}
	}
	return err
}

func writeCollection(out io.Writer, c *upkeep.Collection) error {
	var err error
	if len(c.Removed) > 0 {
		err = writeItems(out, c.Removed, c.DryRun, c.Freed)
	} else {
		_, err = fmt.Fprintln(out, "nothing to remove")
	}
	for _, item := range c.Kept {
		if err == nil {
			_, err = fmt.Fprintf(out, "kept: %s %s: %s\n", item.Kind, item.Name, item.Reason)
		}
	}
	if c.DryRun && len(c.Removed) > 0 && err == nil {
		_, err = fmt.Fprintln(out, "Nothing was removed; --yes removes it.")
	}
	return err
}

func writeItems(out io.Writer, items []upkeep.Item, dry bool, freed int64) error {
	done := "removed"
	if dry {
		done = "would remove"
	}
	table := cli.NewTable(out)
	for _, item := range items {
		table.Row(done, string(item.Kind), item.Name, item.Reason)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%d in all; %s are left to the garbage collection of the registry\n", len(items), units.Size(freed))
	return err
}
