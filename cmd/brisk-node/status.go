package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/agent"
)

func newStatusCommand() *cobra.Command {
	opts := &options{}
	var format string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print the state of the agent and of each image",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := opts.load(cmd.Flags())
			if err != nil {
				return err
			}
			status, err := agent.FetchStatus(cmd.Context(), cfg.Directory)
			if errors.Is(err, node.ErrNoNode) {
				return fmt.Errorf("%w; start it with \"brisk-node run\" or \"systemctl start brisk-node\"", err)
			}
			if err != nil {
				return err
			}
			return cli.Print(cmd.OutOrStdout(), format, status, func(w io.Writer) error { return printStatus(w, status) })
		},
	}
	opts.addPlacesTo(cmd)
	cli.AddFormat(cmd, &format)
	return cmd
}

func printStatus(w io.Writer, status agent.Status) error {
	var text strings.Builder
	if len(status.NotReady) == 0 {
		fmt.Fprintln(&text, "ready:        yes")
	}
	for _, reason := range status.NotReady {
		fmt.Fprintln(&text, "not ready:   ", reason)
	}
	fmt.Fprintln(&text, "mounted with:", status.Backend)
	if status.MaxIdleMounts > 0 {
		fmt.Fprintf(&text, "idle mounts:  %d of at most %d, for the next containers of their images\n", status.IdleMounts, status.MaxIdleMounts)
	}
	if status.PeerID != "" {
		fmt.Fprintln(&text, "peer:        ", status.PeerID)
	}
	fmt.Fprintln(&text, "credentials: ", strings.Join(status.Credentials, ", "))
	for _, repo := range status.Repositories {
		if repo.Source != "" {
			fmt.Fprintf(&text, "              %s for %s\n", repo.Source, repo.Repository)
		}
	}
	fmt.Fprintf(&text, "transferred:  %s from registries and %s of bundles, compressed; %s from peers, uncompressed\n",
		units.Size(status.Bytes.Registry), units.Size(status.Bytes.Bundles), units.Size(status.Bytes.Peers))
	printScrub(&text, status.Scrub)
	fmt.Fprintln(&text)
	table := cli.NewTable(&text)
	// Of what programs read, so that columns can be added and compared: not as it was transferred.
	table.Row("IMAGE", "LAZY", "LOCAL", "TRACE", "BUNDLE", "REGISTRY", "PEERS", "DISK", "MEMORY", "STALLS")
	for _, image := range status.Images {
		table.Row(imageRow(image)...)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if len(status.Images) > 0 {
		text.WriteString("\nTRACE says how it is known what a start reads: learnt here, or from the registry or peers, or predicted; \"list\" is a prefetch list.\nBUNDLE, REGISTRY, PEERS, DISK and MEMORY say where content came from, uncompressed.\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// imageRow is what the table says of an image.
func imageRow(image agent.ImageStatus) []string {
	lazy := "yes"
	switch {
	case !image.Lazy:
		lazy = "no: " + image.Reason
	case image.Reason == string(snapshotter.ReasonFalseIndex), image.Reason == string(snapshotter.ReasonUntrusted):
		lazy = "quarantined: " + image.Reason
	case image.Reason != "":
		lazy = "in part: " + image.Reason
	}
	if image.ImageStatus == nil {
		return []string{image.Image, lazy, "-", "-", "-", "-", "-", "-", "-", "-"}
	}
	local := fmt.Sprintf("%d%%", image.Local())
	if image.Direct {
		local += " direct"
	}
	trace := string(node.TraceNone)
	if image.Start != nil {
		trace = string(image.Start.Source)
	}
	t := image.Traffic
	bundle := units.Size(t.Bundle)
	switch {
	case image.Bundle == nil:
		bundle = "-"
	case image.Bundle.Rejected:
		bundle += " (rejected: wrong bytes)"
	}
	stalls := "0"
	if t.Stalls > 0 {
		stalls = fmt.Sprintf("%d (%s in all, %s at most)", t.Stalls, t.StallTime.Round(time.Millisecond), t.LongestStall.Round(time.Millisecond))
	}
	return []string{
		image.Image, lazy, local, trace, bundle, units.Size(t.Registry), units.Size(t.Peers), units.Size(t.Disk), units.Size(t.Memory), stalls,
	}
}
