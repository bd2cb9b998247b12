package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/waterfall"
)

func newWhyCommand() *cobra.Command {
	opts := &options{}
	var format, chart string
	var all bool
	cmd := &cobra.Command{
		Use:   "why [IMAGE]",
		Short: "Show why the last start of an image was slow",
		Long: `Show the last start of an image: the phases of its pull, its requests to the registry, its reads,
where each of them got its data, and how long it waited. IMAGE is the reference that was pulled, or the digest of
a manifest. Without IMAGE, list the recorded starts.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := opts.load(cmd.Flags())
			if err != nil {
				return err
			}
			client, out := node.Client{Dir: cfg.Directory}, cmd.OutOrStdout()
			if len(args) == 0 {
				list, err := client.ListStarts(cmd.Context())
				if err != nil {
					return unreachable(err)
				}
				return cli.Print(out, format, list, func(w io.Writer) error { return printStarts(w, list) })
			}
			start, err := client.StartRecord(cmd.Context(), args[0])
			if err != nil {
				return unreachable(err)
			}
			if chart != "" {
				return waterfall.WriteChart(chart, &start)
			}
			return cli.Print(out, format, start, func(w io.Writer) error { return start.WriteText(w, all) })
		},
	}
	opts.addPlacesTo(cmd)
	cli.AddFormat(cmd, &format)
	cmd.Flags().BoolVar(&all, "all", false, "print all requests and reads, not only the slowest")
	cmd.Flags().StringVar(&chart, "draw", "", "write a chart to this file; the name must end with .svg or .html")
	return cmd
}

// unreachable adds the command that starts the node to the error that none runs.
func unreachable(err error) error {
	if errors.Is(err, node.ErrNoNode) {
		return fmt.Errorf("%w; start it with \"brisk-node run\" or \"systemctl start brisk-node\"", err)
	}
	return err
}

func printStarts(w io.Writer, list []node.StartSummary) error {
	table := cli.NewTable(w)
	table.Row("IMAGE", "MANIFEST", "BEGAN", "READS", "WAITED")
	for _, start := range list {
		table.Row(start.Image, start.Manifest.Short(), start.Began.Local().Format(time.DateTime), strconv.Itoa(start.Reads), start.Waited.Round(time.Millisecond).String())
	}
	return table.Flush()
}
