package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/agent"
)

// The formats that commands print their results in.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// addFormat adds the flag for the format of what is printed.
func addFormat(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "output", "o", formatTable, "table or json")
}

// printAs prints a result in a format.
func printAs(w io.Writer, format string, result any, table func(io.Writer) error) error {
	switch format {
	case formatJSON:
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(result)
	case formatTable:
		return table(w)
	default:
		return fmt.Errorf("output format %q is neither table nor json", format)
	}
}

func newStatusCommand() *cobra.Command {
	opts := &options{}
	var format string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print what the agent of this node is doing, image by image",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := opts.load(cmd.Flags())
			if err != nil {
				return err
			}
			status, err := agent.AskStatus(cmd.Context(), cfg.Directory)
			if errors.Is(err, node.ErrNoNode) {
				return fmt.Errorf("%w; start it with \"brisk-node run\", or the service of that name", err)
			}
			if err != nil {
				return err
			}
			return printAs(cmd.OutOrStdout(), format, status, func(w io.Writer) error { return printStatus(w, status) })
		},
	}
	opts.addPlacesTo(cmd)
	addFormat(cmd, &format)
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
	if status.PeerID != "" {
		fmt.Fprintln(&text, "peer:        ", status.PeerID)
	}
	fmt.Fprintln(&text, "credentials: ", strings.Join(status.Credentials, ", "))
	for _, repo := range status.Repositories {
		if repo.Source != "" {
			fmt.Fprintf(&text, "              %s for %s\n", repo.Source, repo.Repository)
		}
	}
	fmt.Fprintf(&text, "loaded:       %s from registries, %s from peers\n", bytesText(status.Bytes.Registry), bytesText(status.Bytes.Peers))
	printScrub(&text, status.Scrub)
	fmt.Fprintln(&text)
	rows := []string{"IMAGE\tLAZY\tLOCAL\tREGISTRY\tPEERS\tDISK\tMEMORY\tSTALLS\n"}
	for _, image := range status.Images {
		rows = append(rows, strings.Join(imageRow(image), "\t")+"\n")
	}
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, err := io.WriteString(table, strings.Join(rows, ""))
	if err = errors.Join(err, table.Flush()); err != nil {
		return err
	}
	_, err = io.WriteString(w, text.String())
	return err
}

// imageRow is what the table says of an image.
func imageRow(image agent.ImageStatus) []string {
	lazy := "yes"
	switch {
	case !image.Lazy:
		lazy = "no: " + image.Reason
	case image.Reason != "":
		lazy = "in part: " + image.Reason
	}
	if image.ImageStatus == nil {
		return []string{image.Image, lazy, "-", "-", "-", "-", "-", "-"}
	}
	local := fmt.Sprintf("%d%%", image.Local())
	if image.Direct {
		local += " direct"
	}
	t := image.Traffic
	stalls := "0"
	if t.Stalls > 0 {
		stalls = fmt.Sprintf("%d (%s in all, %s at most)", t.Stalls, t.StallTime.Round(time.Millisecond), t.LongestStall.Round(time.Millisecond))
	}
	return []string{
		image.Image, lazy, local, bytesText(t.Registry), bytesText(t.Peers), bytesText(t.Disk), bytesText(t.Memory), stalls,
	}
}

// bytesText returns a number of bytes with three digits and a unit.
func bytesText(n int64) string {
	value, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1000 {
			break
		}
		value, unit = value/1024, next
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.3g %s", value, unit)
}
