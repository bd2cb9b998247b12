package p2p

import (
	"context"
	"errors"
	"fmt"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/p2p/policy"
	"github.com/brisk-project/brisk/p2p/wire"
)

const (
	// MaxHint is the largest hint in bytes that peers exchange.
	MaxHint = wire.MaxHint
	// hintPeers is how many peers are asked for a hint at once. A question and the answer
	// that there is none are 130 bytes.
	hintPeers = 16
)

// HintName names what one kind of hints says of subject.
func HintName(kind string, subject block.Digest) block.Digest { return wire.HintName(kind, subject) }

// Hint asks several peers at once for a hint of at most maxSize bytes. Peers can send what
// they like: use says whether an answer is of use, and the first one that is ends the
// search. The caller bounds the time it may take by ctx.
//
// The error wraps [block.ErrNotFound] if no peer that was asked has one of use.
func (n *Node) Hint(ctx context.Context, name block.Digest, maxSize int64, use func([]byte) error) error {
	if maxSize < 0 || maxSize > MaxHint {
		return fmt.Errorf("asking peers for a hint: a limit of %d bytes is not between 0 and %d", maxSize, int64(MaxHint))
	}
	if err := n.await(ctx); err != nil {
		return fmt.Errorf("asking peers for a hint: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked := n.scoreboard.Order(name, peers{n}.Connected())
	asked = asked[:min(len(asked), hintPeers)]
	answers := make(chan []byte, len(asked))
	for _, id := range asked {
		go func() { answers <- n.hintFrom(ctx, id, name, maxSize) }()
	}
	for range asked {
		select {
		case data := <-answers:
			if data != nil && use(data) == nil {
				n.counts.objectsReceived.Add(uint64(len(data)))
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("asking peers for a hint: %w: %w", block.ErrNotFound, context.Cause(ctx))
		}
	}
	return fmt.Errorf("asking peers for a hint: %w", block.ErrNotFound)
}

// hintFrom returns the hint of one peer, nil if it has none. A failure is not held against
// the peer: it may be slower than the asker is patient.
func (n *Node) hintFrom(ctx context.Context, id policy.PeerID, name block.Digest, maxSize int64) []byte {
	l := n.link(id)
	if l == nil {
		return nil
	}
	data, err := l.urgent.hint(ctx, name, maxSize)
	if busy, ok := errors.AsType[*policy.BusyError](err); ok {
		n.scoreboard.Busy(id, busy.After)
	}
	if err != nil {
		return nil
	}
	return data
}
