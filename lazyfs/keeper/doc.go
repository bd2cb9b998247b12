// Package keeper keeps FUSE mounts alive while the process that serves them is away.
//
// The kernel ends a FUSE connection when its last descriptor is closed. A worker
// therefore hands a duplicate of each descriptor to a [Store]; when it dies, the
// connection stays, readers wait, and the next worker takes the descriptors back. Two
// stores exist:
//
//   - [Client], which talks to a [Keeper]: a tiny process of its own, on a socket;
//   - [Systemd], which uses the descriptor store of the service manager.
//
// A store holds names and descriptors, nothing else. What a worker must know to serve
// a connection again is in its own records, under the same names.
//
// # Waiting has an end
//
// A keeper lets readers wait for a worker for [Config.WaitTimeout]. From then on it answers
// every request with EIO itself, those included that the dead worker had begun, until
// a worker takes the connection back: after that reads work as before. A connection is
// in good hands only once a worker has put it again: one that takes it and does
// nothing does not stop the clock.
//
// # The protocol
//
// One client at a time talks to a keeper, over a SOCK_SEQPACKET socket; the next one
// waits for the end of the first, which is also how the keeper learns that a worker is
// gone. Only processes of the keeper's own user are heard. Each message is
//
//	"BRK1"  4 bytes
//	kind    1 byte
//	length  1 byte, of what follows
//	text    a name or an error, at most 255 bytes
//
// and may carry one descriptor. A request is answered by one message of kind done
// or failed; take is answered by a message of kind session for each descriptor before it.
package keeper
