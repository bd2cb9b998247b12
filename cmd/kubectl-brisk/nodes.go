package main

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/brisk-project/brisk/internal/units"
)

// nodeRow is what is told of a node. Sizes are in bytes, rates in bytes per second.
type nodeRow struct {
	Node           string `json:"node"`
	State          string `json:"state"`
	Zone           string `json:"zone,omitempty"`
	Backend        string `json:"backend,omitempty"`
	Version        string `json:"version,omitempty"`
	Images         int    `json:"images"`
	WarmImages     int    `json:"warmImages"`
	StartupMissing int64  `json:"startupMissing"`
	Cached         string `json:"cached,omitempty"`
	CapacityBytes  int64  `json:"capacityBytes"`
	FreeBytes      int64  `json:"freeBytes"`
	PeerRate       int64  `json:"peerRate"`
	RegistryRate   int64  `json:"registryRate"`
	Reported       string `json:"reported,omitempty"` // how long ago
}

func (c *cluster) nodeRows() []nodeRow {
	rows := make([]nodeRow, 0, len(c.nodes))
	for i := range c.nodes {
		node := &c.nodes[i]
		row := nodeRow{Node: node.Name, State: c.state(node)}
		if report := c.reports[node.Name]; report != nil {
			s := &report.Status
			row.Zone, row.Backend, row.Version, row.Cached = s.Zone, s.Backend, s.Version, s.Cache.Summary
			row.CapacityBytes, row.FreeBytes = s.Cache.CapacityBytes, s.Cache.FreeBytes
			row.PeerRate, row.RegistryRate = s.Bandwidth.Peers, s.Bandwidth.Registry
			row.Reported = duration.HumanDuration(c.age(report))
		}
		for _, image := range c.images[node.Name] {
			row.Images++
			row.StartupMissing += image.StartupMissing
			if image.StartupMissing == 0 {
				row.WarmImages++
			}
		}
		rows = append(rows, row)
	}
	return rows
}

func (o *options) newNodesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes: whether they accelerate, and what their caches hold",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load(cmd.Context())
			if err != nil {
				return err
			}
			return table[nodeRow]{
				header: "NODE STATE ZONE BACKEND IMAGES CACHED REPORTED VERSION", rows: c.nodeRows(),
				line: func(r nodeRow) []string {
					return []string{
						r.Node, r.State, orDash(r.Zone), orDash(r.Backend), strconv.Itoa(r.Images), orDash(r.Cached),
						orDash(r.Reported), orDash(r.Version),
					}
				},
			}.print(cmd.OutOrStdout(), o.format)
		},
	}
}

func (o *options) newTopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "top",
		Short: "List the nodes that have most to load first, with their rates",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load(cmd.Context())
			if err != nil {
				return err
			}
			rows := c.nodeRows()
			slices.SortStableFunc(rows, func(a, b nodeRow) int { return cmp.Compare(b.StartupMissing, a.StartupMissing) })
			return table[nodeRow]{
				header: "NODE MISSING IMAGES WARM CACHED FREE PEERS REGISTRY REPORTED", rows: rows,
				line: func(r nodeRow) []string {
					return []string{
						r.Node, units.Size(r.StartupMissing), strconv.Itoa(r.Images), strconv.Itoa(r.WarmImages), orDash(r.Cached),
						units.Size(r.FreeBytes), units.Throughput(r.PeerRate), units.Throughput(r.RegistryRate), orDash(r.Reported),
					}
				},
			}.print(cmd.OutOrStdout(), o.format)
		},
	}
}
