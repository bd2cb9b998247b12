// Package agent joins what runs on a node of a cluster: the data path of package node
// and the snapshotter that containerd talks to. It holds no logic of its own but the
// translation between the two.
package agent
