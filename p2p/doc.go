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
// streams of one connection, and the server sends no bulk block to anybody while
// urgent ones wait. What a bulk stream can put in the way of an urgent block is
// then one flow-control window, [streamWindow].
package p2p
