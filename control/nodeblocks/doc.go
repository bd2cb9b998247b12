// Package nodeblocks publishes what a node agent knows as the NodeBlocks object of its
// node, and marks the node with labels while the agent is healthy.
//
// When to write is decided by [WriteSchedule], which knows neither clocks nor clusters: a write
// costs the cluster something, and 5,000 agents share one API server. [Publisher] writes.
package nodeblocks
