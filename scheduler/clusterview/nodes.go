package clusterview

import "k8s.io/apimachinery/pkg/util/duration"

// NodeKind is the kind of [NodeSummary].
const NodeKind = "NodeSummary"

// NodeSummary describes a node. Sizes are in bytes, rates in bytes per second.
type NodeSummary struct {
	Document

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

// Nodes returns all nodes, sorted by name.
func (c *View) Nodes() []NodeSummary {
	rows := make([]NodeSummary, 0, len(c.nodes))
	for i := range c.nodes {
		node := &c.nodes[i]
		row := NodeSummary{Document: Document{APIVersion, NodeKind}, Node: node.Name, State: c.state(node)}
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
