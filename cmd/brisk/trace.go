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
		Short: "Record, push, show and exchange start-up traces",
		Long: "A trace lists the parts of an image that its start reads, in order. Nodes load these parts\n" +
			"first. They record traces themselves, and use a trace that was pushed beside the image\n" +
			"from their first pull on.\n\n" +
			"\"brisk trace IMAGE\" runs the image on a new lazy mount and records the trace of this start.\n" +
			"The program runs as in a container: as the user of the image, and with the network of this\n" +
			"machine unless --net=none is set. Brisk stops the program when the start is over. The image\n" +
			"needs an index, see \"brisk convert\". If the image has the name of a subcommand, add its tag\n" +
			"or registry.",
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
		notef("%s: ignored %s of other images\n", path, units.Size(unknown))
	}
	for _, p := range missing {
		notef("%s: %s has no file %s\n", path, found.image.Name, p)
	}
	if len(f.Trace) == 0 {
		return f, fmt.Errorf("%s: it contains no part of %s", path, found.image.Name)
	}
	return f, nil
}

// registryTraces returns the traces that nodes take from the registry for an image.
func (g *globals) registryTraces(ctx context.Context, found *indexed) ([]startup.File, error) {
	client, err := g.registryClient()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	chosen := artifact.SelectTraces(found.artifact)
	if len(chosen) == 0 {
		return nil, fmt.Errorf("%s has no trace in the registry; push one with \"brisk trace push\"", found.image.Name)
	}
	return artifact.Fetch(ctx, client, found.image.Name.Context(), chosen)
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
		Short: "Combine several traces into one",
		Long: "Combine several traces of the same image into one. It contains the first trace, then the\n" +
			"parts that only the second one reads, and so on. Put the most common start first.",
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
	sign                                 signOptions
}

func newTracePushCommand(shared *globals) *cobra.Command {
	opts := &traceOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "push IMAGE FILE...",
		Short: "Push traces beside an image, so that every node uses them",
		Long: "Push traces beside an image: as a referrer of its manifest, and under the tag with the\n" +
			"suffix \"_accelerated\". The image needs an index. Each FILE is a trace or a list of files\n" +
			"(see \"brisk trace import\"). Traces of other commands and a prefetch list stay in the registry.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.push(cmd.Context(), cmd.OutOrStdout(), cmd.PrintErrf, args[0], args[1:])
		},
	}
	opts.addPlatform(cmd)
	opts.addCommand(cmd)
	cmd.Flags().BoolVar(&opts.bundle, "bundle", false,
		"also push a bundle: one blob with exactly the pages of the traces, which nodes load instead of blocks")
	opts.sign.addTo(cmd.Flags(), "sign", "sign the start-up artifact with this private key: a file, or the URI of a key in a KMS; repeat for several keys")
	return cmd
}

func (o *traceOptions) addPlatform(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.platform, "platform", "", "platform of a multi-platform image (default: this machine's)")
}

func (o *traceOptions) addCommand(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.command, "command", "", "command whose start the trace describes (default: the one in the file)")
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
		Long: "Write the trace of an image to a file: the trace in the registry or, with --dir, the trace\n" +
			"that a running node uses.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return opts.export(cmd.Context(), cmd.OutOrStdout(), cmd.PrintErrf, args[0])
		},
	}
	opts.addPlatform(cmd)
	opts.addOutput(cmd)
	cmd.Flags().StringVar(&opts.dir, "dir", "", "read the trace from the brisk or brisk-node that runs in this directory")
	return cmd
}

func newTraceImportCommand(shared *globals) *cobra.Command {
	opts := &traceOptions{globals: shared}
	cmd := &cobra.Command{
		Use:   "import IMAGE FILE",
		Short: "Add a trace to a running node, or convert a list of files to a trace",
		Long: "Add a trace to the brisk or brisk-node that runs in --dir, as if it had recorded this\n" +
			"start. With -o, write the trace to a file instead. FILE is a trace or a list of files: one\n" +
			"path per line, or the output of the recorder of eStargz.",
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
