// Package p2ptest runs real peer nodes on loopback for tests: real libp2p hosts,
// real connections, free ports.
package p2ptest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/brisk-project/brisk/p2p"
)

// patience is how long starting and connecting may take. It is long because a
// loaded machine must not make a test fail.
const patience = 60 * time.Second

// Key returns the i-th of a fixed series of node keys.
func Key(i int) ed25519.PrivateKey {
	seed := sha256.Sum256(fmt.Appendf(nil, "brisk test node %d", i))
	return ed25519.NewKeyFromSeed(seed[:])
}

// Mesh starts n nodes that all know each other and returns once every node is
// connected to every other. The nodes stop when the test ends. configure sets
// what node i holds; Key, Listen and Members are set already and may be replaced.
func Mesh(tb testing.TB, n int, configure func(i int, cfg *p2p.Config)) []*p2p.Node {
	tb.Helper()
	members := p2p.NewList()
	nodes := make([]*p2p.Node, n)
	for i := range nodes {
		cfg := Config(i, members)
		configure(i, &cfg)
		nodes[i] = Start(tb, cfg)
	}
	AddMembers(tb, members, nodes...)
	for _, node := range nodes {
		AwaitConnected(tb, node, n-1)
	}
	return nodes
}

// Config returns the configuration of test node i, which listens on a free port of
// loopback and waits long for slow peers, so that a loaded machine does not turn
// into failures. Layout and what the node holds are left to the caller.
func Config(i int, members p2p.Members) p2p.Config {
	return p2p.Config{
		Key:            Key(i),
		Listen:         []string{"/ip4/127.0.0.1/tcp/0"},
		Members:        members,
		SilenceTimeout: 10 * time.Second,
		ReadBudget:     30 * time.Second,
	}
}

// Start runs a node until the test ends and returns once it listens.
func Start(tb testing.TB, cfg p2p.Config) *p2p.Node {
	tb.Helper()
	node, stop := StartStop(tb, cfg)
	tb.Cleanup(stop)
	return node
}

// StartStop runs a node until stop is called and returns once it listens. stop
// returns once the node has ended, and may be called more than once.
func StartStop(tb testing.TB, cfg p2p.Config) (node *p2p.Node, stop func()) {
	tb.Helper()
	node, err := p2p.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ended := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		ended <- node.Run(ctx)
		close(done)
	}()
	select {
	case <-node.Ready():
	case err := <-ended:
		cancel()
		tb.Fatalf("peer node ended at its start: %v", err)
	case <-time.After(patience):
		cancel()
		tb.Fatal("peer node does not get ready")
	}
	return node, func() {
		cancel()
		<-done
		select {
		case err := <-ended:
			if err != nil {
				tb.Errorf("peer node ended with %v", err)
			}
		default:
		}
	}
}

// AddMembers makes members the set of the given running nodes.
func AddMembers(tb testing.TB, members *p2p.List, nodes ...*p2p.Node) {
	tb.Helper()
	var list []string
	for _, node := range nodes {
		list = append(list, node.Addrs()...)
	}
	peers, err := p2p.ParsePeers(list)
	if err != nil {
		tb.Fatal(err)
	}
	members.Set(peers)
}

// AwaitConnected returns once a node is connected to exactly n peers.
func AwaitConnected(tb testing.TB, node *p2p.Node, n int) {
	tb.Helper()
	Await(tb, fmt.Sprintf("%d connected peers", n), func() bool { return node.Stats().Connected == n })
}

// Await returns once condition holds, and fails the test if that takes too long.
func Await(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for !condition() {
		select {
		case <-ticker.C:
		case <-deadline.C:
			tb.Fatalf("waited %s in vain for: %s", patience, what)
		}
	}
}
