// Package policy decides which peer is asked for which blocks, how long it is
// waited for, and what its answers say about it. It knows no network library: the
// network stands behind [Network], time behind [Config].Now and the timers of the
// standard library, so that a simulator runs the code that nodes run.
//
// [Scoreboard] keeps what is known about each peer: how fast it answers, how much it
// has been asked for, which blocks it lately did not hold, whether it is benched
// (failed, to be left alone for a while) or banned (sent wrong bytes).
//
// [Fetcher] is a block.Source over the peers of a Network. It cuts a request into
// extents, takes them from several peers at once, asks the next peer only for
// what the one before did not deliver, and hashes every block before it passes it
// on. It gives up in bounded time: whoever reads can always go to the registry.
package policy
