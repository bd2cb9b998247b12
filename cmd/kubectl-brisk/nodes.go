package main

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/internal/units"
	"github.com/brisk-project/brisk/scheduler/clusterview"
)

type nodeRow = clusterview.NodeSummary

// nodeListing is what the commands that list nodes have in common.
func nodeListing(columns ...column[nodeRow]) listing[nodeRow] {
	return listing[nodeRow]{
		kind: clusterview.NodeKind + "List", columns: columns, rows: (*clusterview.View).Nodes,
		name: func(r nodeRow) string { return "node/" + r.Node },
		id:   func(r nodeRow) string { return r.Node },
		steady: func(r nodeRow) nodeRow {
			r.Reported = ""
			return r
		},
		gone: func(r nodeRow) nodeRow {
			return nodeRow{Document: r.Document, Node: r.Node, State: "deleted"}
		},
	}
}

func (o *options) newNodesCommand() *cobra.Command {
	l := nodeListing(
		column[nodeRow]{header: "NODE", text: func(r nodeRow) string { return r.Node }},
		column[nodeRow]{header: "STATE", text: func(r nodeRow) string { return r.State }},
		column[nodeRow]{header: "ZONE", text: func(r nodeRow) string { return orDash(r.Zone) }},
		column[nodeRow]{header: "BACKEND", text: func(r nodeRow) string { return orDash(r.Backend) }},
		column[nodeRow]{header: "IMAGES", text: func(r nodeRow) string { return strconv.Itoa(r.Images) }},
		column[nodeRow]{header: "CACHED", text: func(r nodeRow) string { return orDash(r.Cached) }},
		column[nodeRow]{header: "REPORTED", text: func(r nodeRow) string { return orDash(r.Reported) }},
		column[nodeRow]{header: "VERSION", text: func(r nodeRow) string { return orDash(r.Version) }},
		column[nodeRow]{header: "WARM", wide: true, text: func(r nodeRow) string { return strconv.Itoa(r.WarmImages) }},
		column[nodeRow]{header: "MISSING", wide: true, text: func(r nodeRow) string { return units.Size(r.StartupMissing) }},
		column[nodeRow]{header: "FREE", wide: true, text: func(r nodeRow) string { return units.Size(r.FreeBytes) }},
		column[nodeRow]{header: "PEERS", wide: true, text: func(r nodeRow) string { return units.Throughput(r.PeerRate) }},
		column[nodeRow]{header: "REGISTRY", wide: true, text: func(r nodeRow) string { return units.Throughput(r.RegistryRate) }},
	)
	return o.newListCommand("nodes", "List nodes: whether they accelerate images, and the content of their caches", "", cobra.NoArgs,
		func(cmd *cobra.Command, _ []string) error { return l.run(cmd.Context(), o, cmd.OutOrStdout()) })
}

func (o *options) newTopCommand() *cobra.Command {
	l := nodeListing(
		column[nodeRow]{header: "NODE", text: func(r nodeRow) string { return r.Node }},
		column[nodeRow]{header: "MISSING", text: func(r nodeRow) string { return units.Size(r.StartupMissing) }},
		column[nodeRow]{header: "IMAGES", text: func(r nodeRow) string { return strconv.Itoa(r.Images) }},
		column[nodeRow]{header: "WARM", text: func(r nodeRow) string { return strconv.Itoa(r.WarmImages) }},
		column[nodeRow]{header: "CACHED", text: func(r nodeRow) string { return orDash(r.Cached) }},
		column[nodeRow]{header: "FREE", text: func(r nodeRow) string { return units.Size(r.FreeBytes) }},
		column[nodeRow]{header: "PEERS", text: func(r nodeRow) string { return units.Throughput(r.PeerRate) }},
		column[nodeRow]{header: "REGISTRY", text: func(r nodeRow) string { return units.Throughput(r.RegistryRate) }},
		column[nodeRow]{header: "REPORTED", text: func(r nodeRow) string { return orDash(r.Reported) }},
		column[nodeRow]{header: "ZONE", wide: true, text: func(r nodeRow) string { return orDash(r.Zone) }},
		column[nodeRow]{header: "STATE", wide: true, text: func(r nodeRow) string { return r.State }},
	)
	l.rows = func(c *clusterview.View) []nodeRow {
		rows := c.Nodes()
		slices.SortStableFunc(rows, func(a, b nodeRow) int { return cmp.Compare(b.StartupMissing, a.StartupMissing) })
		return rows
	}
	return o.newListCommand("top", "List nodes with their rates, the one with most to load first", "", cobra.NoArgs,
		func(cmd *cobra.Command, _ []string) error { return l.run(cmd.Context(), o, cmd.OutOrStdout()) })
}
