// Package p2p lets nodes read blocks from one another. It is the only package that
// knows libp2p.
//
// A [Node] does both halves. It serves the blocks that its own node holds (memory
// and disk, never anything further away) to the members of the cluster, and its
// [Node.Source] reads blocks from them. [Node.Object] reads small
// content-addressed objects, such as layer indexes and manifests, the same way.
//
// What it guarantees:
//
//   - Only members are talked to, in either direction. A node is known by its
//     Ed25519 key; who is a member, [Members] says.
//   - Bytes from a peer are hashed before they reach a reader or a cache. A peer
//     that sends wrong ones is cut off for ten minutes.
//   - A read never waits for a connection, and for peers at most a second in all.
//   - Credentials and addresses of registries are not part of the protocol.
//
// There is no discovery and no routing table: in a cluster the membership is
// known. Which peer to ask is decided in package policy, the bytes of the
// protocol are defined in package wire and in docs/p2p-protocol.md.
//
// # One connection for urgent and bulk
//
// Urgent requests (reads, the head of a trace) and bulk requests use separate
// streams of one connection, and while urgent blocks wait the server starts no
// bulk block for anybody. What bulk can put in the way of an urgent block is then
// one flow-control window, [streamWindow].
//
// Measured by BenchmarkRead: a read of one block over a link of 1 Gbit/s that a
// fill from the same peer keeps full, median and 99th percentile in ms, of each the
// median of five runs (without the fill 2.2 and 4.4, of which the block itself is
// 2.1).
//
//	window            on the connection of the fill    on a connection of its own
//	1 MiB                   7.3       11.8                    4.6       12.7
//	512 KiB                 5.1       10.2                    4.8       14.7
//	256 KiB                 4.9        8.2                    4.3       11.3
//
// With 512 KiB a second connection per peer gains 0.3 ms in the middle and loses
// more at the end of the distribution, for the link is shared in either case.
// docs/decisions/0003-one-connection-per-peer.md tells what the windows cost a fill.
package p2p
