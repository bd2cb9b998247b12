// Package node wires the data path of one node: the registry, the peers, the
// caches and the mounts. It holds no logic of its own beyond keeping track of
// which layers are in use; every part it joins works and is tested without it.
//
//	memory -> disk -> single flight -> fill of both -> peers, verified -> registry, verified
package node
