package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
	"github.com/brisk-project/brisk/scheduler/clusterview"
)

func (o *options) newWhyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why POD",
		Short: "Show how long a pod would wait for its images on each node, and why",
		Long: `Show how long a pod would wait for its images on each node, and why.

The times are the estimates that the scheduler would make now. They do not include the load
that the scheduler has reserved for other pods, because only the scheduler knows it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, _, err := o.ToRawKubeConfigLoader().Namespace()
			if err != nil {
				return fmt.Errorf("finding the namespace: %w", err)
			}
			if err := o.checkFormat(); err != nil {
				return err
			}
			clients, err := o.connect()
			if err != nil {
				return err
			}
			c, err := clients.Load(cmd.Context())
			if err != nil {
				return err
			}
			said, err := c.Explain(cmd.Context(), clients, namespace, strings.TrimPrefix(args[0], "pod/"))
			if err != nil {
				return err
			}
			return printExplanation(said, cmd.OutOrStdout(), o.format)
		},
	}
}

// heading is what is printed above the nodes.
func heading(e *clusterview.PodExplanation) string {
	var above strings.Builder
	fmt.Fprintf(&above, "Pod:        %s\nScheduler:  %s\nMode:       %s\n", e.Pod, e.Scheduler, orDash(string(e.Mode)))
	if e.Node == "" {
		fmt.Fprintf(&above, "Node:       none yet\n")
	} else {
		fmt.Fprintf(&above, "Node:       %s\n", e.Node)
	}
	if e.Message != "" {
		fmt.Fprintf(&above, "Message:    %s\n", e.Message)
	}
	for _, image := range e.Images {
		note := ""
		if !image.Known {
			note = " (no node knows it, so it says nothing for any)"
		}
		fmt.Fprintf(&above, "Image:      %s%s\n", image.Name, note)
	}
	above.WriteString("\n")
	return above.String()
}

func printExplanation(e *clusterview.PodExplanation, w io.Writer, format string) error {
	p := &printer[clusterview.NodeEstimate]{w: w, format: format}
	p.name = func(n clusterview.NodeEstimate) string { return "node/" + n.Node }
	p.columns = []column[clusterview.NodeEstimate]{
		{header: "NODE", text: func(n clusterview.NodeEstimate) string {
			if n.Chosen {
				return n.Node + " *"
			}
			return n.Node
		}},
		{header: "READY-IN", text: func(n clusterview.NodeEstimate) string { return secondsText(n.Seconds) }},
		{header: "PEERS", text: func(n clusterview.NodeEstimate) string { return secondsText(n.Peers) }},
		{header: "REGISTRY", text: func(n clusterview.NodeEstimate) string { return secondsText(n.Registry) }},
		{header: "CACHED", text: func(n clusterview.NodeEstimate) string { return units.Size(n.Cached()) }},
		{header: "SCORE", text: func(n clusterview.NodeEstimate) string { return strconv.FormatInt(n.Score, 10) }},
		{header: "BELIEVED", text: func(n clusterview.NodeEstimate) string { return fmt.Sprintf("%.0f%%", 100*n.Confidence) }},
		{header: "STATE", text: func(n clusterview.NodeEstimate) string { return n.State }},
		{header: "FROM-PEERS", wide: true, text: func(n clusterview.NodeEstimate) string { return units.Size(n.Missing().Peers) }},
		{header: "FROM-REGISTRY", wide: true, text: func(n clusterview.NodeEstimate) string { return units.Size(n.Missing().Registry) }},
	}
	switch format {
	case cli.JSON, cli.YAML:
		return p.document(e)
	case formatName:
	default:
		if _, err := io.WriteString(w, heading(e)); err != nil {
			return err
		}
	}
	return p.all(e.Nodes)
}
