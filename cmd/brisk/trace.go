package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
)

func newTraceCommand(shared *globals) *cobra.Command {
	cmd := &cobra.Command{
		Short: "Record, push, show and exchange traces: what the start of an image reads",
		Long: "A trace is the list of what the start of an image reads. Nodes record traces and load\n" +
			"what a trace lists before all else. A trace that is pushed beside an image is used by\n" +
			"every node from the first pull on.\n\n" +
			"With an image, run it on a lazy mount of its own and record what its start reads. The\n" +
			"program runs as a container does: as the user of the image, with the network of this\n" +
			"machine unless --net=none is given. It is ended when its start is over. The image needs\n" +
			"an index, see \"brisk convert\". An image whose name is that of a command below needs its\n" +
			"tag or registry.",
		Example: "  brisk trace --push registry.example.com/app:v1\n" +
			"  brisk trace -o app.trace --until port:8080 --until 1m registry.example.com/app:v1 -- app --serve",
	}
	addRecord(cmd, shared)
	cmd.AddCommand(
		newTracePushCommand(shared),
		newTraceShowCommand(shared),
		newTraceMergeCommand(),
		newTraceExportCommand(shared),
		newTraceImportCommand(shared),
	)
	return cmd
}

// maxTraceFile bounds the files that are read: lists of files are longer than traces.
const maxTraceFile = files.MaxList

// readTraceFile reads a file, "-" being standard input.
func readTraceFile(path string) ([]byte, error) {
	in := os.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("opening a trace: %w", err)
		}
		defer file.Close() //nolint:errcheck // read only
		in = file
	}
	content, err := io.ReadAll(io.LimitReader(in, maxTraceFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return content, nil
}

// parseTraceFile reads the trace in a file.
func parseTraceFile(path string) (startup.File, error) {
	content, err := readTraceFile(path)
	if err != nil {
		return startup.File{}, err
	}
	f, err := startup.ParseFile(content)
	if err != nil {
		return startup.File{}, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// writeTraceFile writes a trace to a file, "-" being standard output.
func writeTraceFile(out io.Writer, path string, f startup.File) error {
	encoded, err := f.Encode()
	if err != nil {
		return err
	}
	if path == "-" {
		_, err = out.Write(encoded)
	} else {
		err = os.WriteFile(path, encoded, 0o644) //nolint:gosec // a trace is no secret, its file is given to others
	}
	if err != nil {
		return fmt.Errorf("writing a trace: %w", err)
	}
	return nil
}

// loadTrace reads the trace that a file has for an image, and says what the image does not have.
func loadTrace(notef func(string, ...any), path string, found *indexed) (startup.File, error) {
	content, err := readTraceFile(path)
	if err != nil {
		return startup.File{}, err
	}
	f, unknown, missing, err := files.Load(content, found.layers)
	if err != nil {
		return f, fmt.Errorf("%s: %w", path, err)
	}
	if unknown > 0 {
		notef("%s: %s are of other images and left out\n", path, units.Size(unknown))
	}
	for _, p := range missing {
		notef("%s: %s has no file %s\n", path, found.image.Name, p)
	}
	if len(f.Trace) == 0 {
		return f, fmt.Errorf("%s: it has nothing of %s", path, found.image.Name)
	}
	return f, nil
}

// registryTrace returns the trace that nodes take from the registry for an image.
func (g *globals) registryTrace(ctx context.Context, found *indexed) (startup.File, error) {
	client, err := g.registryClient()
	if err != nil {
		return startup.File{}, err
	}
	defer client.Close()
	chosen := artifact.Choose(found.artifact)
	if len(chosen) == 0 {
		return startup.File{}, fmt.Errorf("%s has no trace in the registry; \"brisk trace push\" puts one there", found.image.Name)
	}
	read, err := artifact.Fetch(ctx, client, found.image.Name.Context(), chosen)
	if err != nil {
		return startup.File{}, err
	}
	return startup.Join(read), nil
}

// openImage fetches the indexes of an image.
func (g *globals) openImage(ctx context.Context, image, platform string) (*indexed, error) {
	chosen, err := parsePlatform(platform)
	if err != nil {
		return nil, err
	}
	client, err := g.registryClient()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	return openIndexed(ctx, client, image, chosen)
}

func newTraceMergeCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "merge FILE... -o FILE",
		Short: "Make one trace of several",
		Long: "Make one trace of several of the same image: what the first one reads, then what only\n" +
			"the second one reads, and so on. Put the trace of the most common start first.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []startup.File
			for _, path := range args {
				f, err := parseTraceFile(path)
				if err != nil {
					return err
				}
				all = append(all, f)
			}
			return writeTraceFile(cmd.OutOrStdout(), output, startup.Join(all))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "-", "file for the trace (\"-\" is standard output)")
	return cmd
}

type traceOptions struct {
	*globals
	dir, platform, output, command, draw string
	bundle, all                          bool
}

func newTracePushCommand(shared *globals) *cobra.Command {
	opts := &traceOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "push IMAGE FILE...",
		Short: "Push traces beside an image, for every node from its first pull on",
		Long: "Push traces beside an image that has an index, as a referrer of its manifest and under\n" +
			"the tag with the suffix \"_accelerated\". A FILE is a trace or a list of files (see\n" +
			"\"brisk trace import\"). Traces of other commands stay.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.push(cmd.Context(), cmd.OutOrStdout(), cmd.PrintErrf, args[0], args[1:])
		},
	}
	opts.addPlatform(cmd)
	opts.addCommand(cmd)
	cmd.Flags().BoolVar(&opts.bundle, "bundle", false,
		"also push a bundle: one blob with exactly what the traces read, which nodes load instead of blocks")
	return cmd
}

func (o *traceOptions) addPlatform(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.platform, "platform", "", "platform of a multi-platform image (default: this machine's)")
}

func (o *traceOptions) addCommand(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.command, "command", "", "the command that the trace is of (default: what the file says)")
}

func (o *traceOptions) addDir(cmd *cobra.Command, use string) {
	cmd.Flags().StringVar(&o.dir, "dir", defaultDir, use)
}

func (o *traceOptions) addOutput(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "file for the trace (\"-\" is standard output)")
}

func newTraceShowCommand(shared *globals) *cobra.Command {
	opts := &traceOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "show IMAGE [FILE] | FILE",
		Short: "Show the files that a trace reads",
		Long: "Show the files that a trace of an image reads, in the order of the first read: the trace\n" +
			"in the registry, or that in FILE. Of FILE alone only the layers are known.\n\n" +
			"A trace keeps the order and the sizes of reads, but no times: these depend on the machine\n" +
			"and the link. \"brisk trace --draw\" draws the start that it records with its times, and\n" +
			"\"brisk-node why\" shows the last start on a node.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.show(cmd.Context(), cmd.OutOrStdout(), cmd.PrintErrf, args)
		},
	}
	opts.addPlatform(cmd)
	cli.AddFormat(cmd, &opts.output)
	cmd.Flags().BoolVar(&opts.all, "all", false, "show every read instead of files")
	cmd.Flags().StringVar(&opts.draw, "draw", "", "write a picture to this file, which ends with .svg or .html")
	return cmd
}

func newTraceExportCommand(shared *globals) *cobra.Command {
	opts := &traceOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "export IMAGE -o FILE",
		Short: "Write the trace of an image to a file",
		Long: "Write the trace of an image to a file: the one in the registry, or, with --dir, the one\n" +
			"that a running node uses.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.export(cmd.Context(), cmd.OutOrStdout(), cmd.PrintErrf, args[0])
		},
	}
	opts.addPlatform(cmd)
	opts.addOutput(cmd)
	cmd.Flags().StringVar(&opts.dir, "dir", "", "directory of a running brisk or brisk-node that is asked for its trace")
	return cmd
}

func newTraceImportCommand(shared *globals) *cobra.Command {
	opts := &traceOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "import IMAGE FILE",
		Short: "Give a running node a trace, or make one of a list of files",
		Long: "Give the brisk or brisk-node that runs in --dir a trace of an image, as if it had seen\n" +
			"such a start; or write it to a file with -o. FILE is a trace or a list of files: one path\n" +
			"a line, or the output of the recorder of eStargz.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.importFile(cmd.Context(), cmd.OutOrStdout(), cmd.PrintErrf, args[0], args[1])
		},
	}
	opts.addPlatform(cmd)
	opts.addCommand(cmd)
	opts.addOutput(cmd)
	opts.addDir(cmd, "directory of the running brisk or brisk-node")
	return cmd
}
