package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/image/startup/prefetch"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
)

func newPrefetchCommand(shared *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prefetch",
		Short: "Set, show and remove the list of files that nodes load first",
		Long: "A prefetch list names files of an image that nodes load before all others when the image\n" +
			"starts, whether the program reads them or not. Recorded traces stay in use: nodes load them\n" +
			"after the list. \"brisk convert --prefetch\" sets a list, too.\n\n" +
			"A list has one absolute path a line. A line that ends with \"/\" stands for all files below a\n" +
			"directory. The globs *, ? and [...] match within a name, ** matches any number of\n" +
			"directories. Symbolic links are followed. Lines that begin with # are comments.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPrefetchSetCommand(shared), newPrefetchShowCommand(shared), newPrefetchClearCommand(shared))
	return cmd
}

type prefetchOptions struct {
	*globals
	platforms              []string
	output                 string
	bundle, strict, asList bool
}

func (o *prefetchOptions) addPlatforms(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&o.platforms, "platform", nil, "only for this platform, such as linux/arm64; can be repeated (default: all platforms)")
}

func newPrefetchSetCommand(shared *globals) *cobra.Command {
	opts := &prefetchOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "set IMAGE FILE",
		Short: "Set the prefetch list of an image, in place of the one it has",
		Long: "Set the prefetch list of an image, in place of the one it has. FILE has the list, see\n" +
			"\"brisk prefetch\"; \"-\" is standard input. The image needs an index. Lines that match no\n" +
			"file are reported.\n\n" + imagesHelp,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := readPrefetchList(args[1])
			if err != nil {
				return err
			}
			return opts.renew(cmd.Context(), cmd.OutOrStdout(), args[0], artifact.UpdateConfig{List: list, Bundle: opts.bundle, Now: time.Now()})
		},
	}
	opts.addPlatforms(cmd)
	cmd.Flags().BoolVar(&opts.bundle, "bundle", false, "also push a bundle: one blob with exactly what the list and recorded traces read; a bundle that the image has is always built again")
	cmd.Flags().BoolVar(&opts.strict, "strict", false, "fail, and set nothing, if a line matches no file on any platform")
	cli.AddFormat(cmd, &opts.output)
	return cmd
}

func newPrefetchClearCommand(shared *globals) *cobra.Command {
	opts := &prefetchOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "clear IMAGE",
		Short: "Remove the prefetch list of an image",
		Long:  "Remove the prefetch list of an image. Recorded traces stay.\n\n" + imagesHelp,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.renew(cmd.Context(), cmd.OutOrStdout(), args[0], artifact.UpdateConfig{DropList: true, Now: time.Now()})
		},
	}
	opts.addPlatforms(cmd)
	cli.AddFormat(cmd, &opts.output)
	return cmd
}

func newPrefetchShowCommand(shared *globals) *cobra.Command {
	opts := &prefetchOptions{globals: shared}
	var platform string
	cmd := &cobra.Command{
		Use:   "show IMAGE",
		Short: "Show the prefetch list of an image, and what each line matches",
		Long:  "Show the prefetch list of an image, and what each line matches.\n\n" + imagesHelp,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.show(cmd.Context(), cmd.OutOrStdout(), args[0], platform)
		},
	}
	cmd.Flags().StringVar(&platform, "platform", "", "platform of a multi-platform image (default: this machine's)")
	cmd.Flags().BoolVar(&opts.asList, "raw", false, "print the list as it was set")
	cli.AddFormat(cmd, &opts.output)
	cmd.MarkFlagsMutuallyExclusive("raw", "output")
	return cmd
}

// readPrefetchList reads a list from a file, "-" being standard input.
func readPrefetchList(path string) (*prefetch.List, error) {
	content, err := readTraceFile(path)
	if err != nil {
		return nil, err
	}
	list, err := prefetch.Parse(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if list.Len() == 0 {
		return nil, fmt.Errorf("%s: the prefetch list has no path; \"brisk prefetch clear\" removes a list", path)
	}
	return list, nil
}

// renew changes the prefetch list of an image.
func (o *prefetchOptions) renew(ctx context.Context, out io.Writer, text string, cfg artifact.UpdateConfig) error {
	if err := cli.CheckFormat(o.output); err != nil {
		return err
	}
	client, err := o.imageClient(0)
	if err != nil {
		return err
	}
	all, err := o.renewImages(ctx, client, text, cfg)
	if err = client.end(ctx, err); err != nil {
		return err
	}
	return cli.Print(out, o.output, renewedLists{text, all}, renewedLists{text, all}.writeTable)
}

func (o *prefetchOptions) renewImages(ctx context.Context, client *imageClient, text string, cfg artifact.UpdateConfig) ([]*artifact.UpdateResult, error) {
	ref, err := client.parse(text, true)
	if err != nil {
		return nil, err
	}
	listing, err := client.ResolveAll(ctx, ref)
	if err != nil {
		return nil, err
	}
	images := listing.Images
	if len(o.platforms) > 0 {
		images = nil
		for _, text := range o.platforms {
			platform, err := parsePlatform(text)
			if err != nil {
				return nil, err
			}
			image, err := client.Resolve(ctx, ref, platform)
			if err != nil {
				return nil, err
			}
			images = append(images, image)
		}
	}
	if o.strict {
		if err := requireMatches(ctx, client.Client, images, cfg.List); err != nil {
			return nil, err
		}
	}
	var all []*artifact.UpdateResult
	var without error // an index
	for _, image := range images {
		renewed, err := artifact.Update(ctx, client.Client, image, cfg)
		switch {
		case errors.Is(err, registry.ErrNoArtifact):
			without = err
		case err != nil:
			return nil, err
		case renewed != nil:
			all = append(all, renewed)
		}
	}
	if len(all) == 0 && without != nil {
		return nil, without
	}
	return all, nil
}

// renewedLists is what "brisk prefetch set" and "brisk prefetch clear" print.
type renewedLists struct {
	Image   string                   `json:"image"`
	Startup []*artifact.UpdateResult `json:"startup"`
}

func (r renewedLists) writeTable(w io.Writer) error {
	if len(r.Startup) == 0 {
		_, err := fmt.Fprintf(w, "%s has no prefetch list\n", r.Image)
		return err
	}
	return writeRenewed(w, r.Startup)
}

// requireMatches returns an error if a line of a list matches no file in any of the images.
func requireMatches(ctx context.Context, client *registry.Client, images []*registry.Image, list *prefetch.List) error {
	var unmatched []prefetch.Match
	looked := false
	for _, image := range images {
		found, err := client.FindArtifact(ctx, image)
		if errors.Is(err, registry.ErrNoArtifact) {
			continue
		}
		if err != nil {
			return err
		}
		layers, err := client.LayerIndexes(ctx, image, found)
		if err != nil {
			return err
		}
		result, err := list.Resolve(ctx, layers)
		if err != nil {
			return err
		}
		here := result.Unmatched()
		if looked {
			here = slices.DeleteFunc(here, func(m prefetch.Match) bool {
				return !slices.ContainsFunc(unmatched, func(known prefetch.Match) bool { return known.Line == m.Line })
			})
		}
		if unmatched, looked = here, true; len(unmatched) == 0 {
			return nil
		}
	}
	var errs []error
	for _, m := range unmatched {
		errs = append(errs, fmt.Errorf("%s: %s", m.Line, m.Problem))
	}
	return errors.Join(errs...)
}

// writePrefetched says what an image has of its prefetch list.
func writePrefetched(w io.Writer, r *artifact.UpdateResult) error {
	p := r.Prefetch
	if p == nil {
		return nil
	}
	if _, err := fmt.Fprintf(w, "%s  prefetch list of %d files, %s\n", r.Platform, p.Files, units.Size(p.Bytes)); err != nil {
		return err
	}
	if p.Cut {
		if _, err := fmt.Fprintf(w, "%s  warning: %s\n", r.Platform, cutWarning); err != nil {
			return err
		}
	}
	for _, m := range p.Unmatched {
		if _, err := fmt.Fprintf(w, "%s  warning: %s: %s\n", r.Platform, m.Line, m.Problem); err != nil {
			return err
		}
	}
	return nil
}

const cutWarning = "the files have more than 512 MiB: nodes load the rest of them after the start, with the rest of the image"

// shownList is what "brisk prefetch show" prints. Sizes are in bytes.
type shownList struct {
	Image    string           `json:"image"`
	Digest   string           `json:"digest"`
	Platform string           `json:"platform"`
	Files    int              `json:"files"`
	Bytes    int64            `json:"bytes"`
	Cut      bool             `json:"cut"`
	Lines    []prefetch.Match `json:"lines"`
	// List is the list as it was set.
	List string `json:"list"`
}

func (o *prefetchOptions) show(ctx context.Context, out io.Writer, image, platform string) error {
	if err := cli.CheckFormat(o.output); err != nil {
		return err
	}
	client, err := o.imageClient(0)
	if err != nil {
		return err
	}
	shown, err := readShownList(ctx, client, image, platform)
	if err = client.end(ctx, err); err != nil {
		return err
	}
	if o.asList {
		_, err := io.WriteString(out, shown.List)
		return err
	}
	return cli.Print(out, o.output, shown, shown.writeTable)
}

func readShownList(ctx context.Context, client *imageClient, image, text string) (*shownList, error) {
	platform, err := parsePlatform(text)
	if err != nil {
		return nil, err
	}
	ref, err := client.parse(image, false)
	if err != nil {
		return nil, err
	}
	found, err := openReference(ctx, client.Client, ref, platform)
	if err != nil {
		return nil, err
	}
	list, err := artifact.FetchList(ctx, client, ref.Context(), found.artifact.Startup)
	if err != nil {
		return nil, err
	}
	if list == nil {
		return nil, fmt.Errorf("%s has no prefetch list; set one with \"brisk prefetch set\"", image)
	}
	result, err := list.Resolve(ctx, found.layers)
	if err != nil {
		return nil, err
	}
	return &shownList{
		Image: image, Digest: found.image.Digest.String(), Platform: found.image.Platform().String(),
		Files: result.Files, Bytes: result.Bytes, Cut: result.Cut, Lines: result.Matches, List: string(list.Content()),
	}, nil
}

func (s *shownList) writeTable(w io.Writer) error {
	about := cli.NewTable(w)
	about.Row("image", s.Image)
	about.Row("digest", s.Digest)
	about.Row("platform", s.Platform)
	about.Row("list", fmt.Sprintf("%d files, %s", s.Files, units.Size(s.Bytes)))
	if s.Cut {
		about.Row("warning", cutWarning)
	}
	if err := about.Flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	table := cli.NewTable(w)
	table.Row("LINE", "FILES", "SIZE", "PATH")
	for _, m := range s.Lines {
		path := strconv.Quote(m.Text)
		if m.Problem != "" {
			path += ": " + m.Problem
		}
		table.Row(strconv.Itoa(m.Number), strconv.Itoa(m.Files), units.Size(m.Bytes), path)
	}
	return table.Flush()
}
