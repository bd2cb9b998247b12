package policy

import (
	"context"
	"errors"
	"math/bits"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// attempt is one question to one peer.
type attempt struct {
	f    *Fetcher
	peer PeerID
	req  BlockRequest
	out  *delivery
	// patience is how long the peer may be silent, budget how long it may be
	// waited for in all. Time that the sink takes counts for neither.
	patience time.Duration
	budget   time.Duration

	got     uint16 // blocks passed on
	bytes   int
	first   bool      // a frame has come
	waiting time.Time // since when the peer is waited for
	timer   *time.Timer
}

// run asks, and returns nil unless the peer failed: what it did not hold is no
// failure. What came is in got, what is left of the budget in budget.
func (a *attempt) run(ctx context.Context) error {
	scoreboard := a.f.cfg.Scoreboard
	n := bits.OnesCount16(a.req.Mask)
	scoreboard.RequestSent(a.peer, n)
	defer scoreboard.RequestSent(a.peer, -n)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	start := a.f.cfg.Now()
	a.waiting = start
	a.timer = time.AfterFunc(a.patience, func() { cancel(errSlow) })
	defer a.timer.Stop()

	reply, err := a.f.cfg.Network.Request(ctx, a.peer, a.req, a.deliver)
	now := a.f.cfg.Now()
	a.budget -= now.Sub(a.waiting)
	result := a.judge(ctx, reply, err, now.Sub(start))
	if a.f.cfg.Observe != nil {
		a.f.cfg.Observe(Outcome{Class: a.req.Class, Result: result, Bytes: a.bytes, Elapsed: now.Sub(start)})
	}
	switch result {
	case ResultOK, ResultMissing, ResultCancelled:
		return nil
	default:
		return err
	}
}

// judge tells the scoreboard what the end of the answer says about the peer.
func (a *attempt) judge(ctx context.Context, reply Reply, err error, elapsed time.Duration) Result {
	scoreboard := a.f.cfg.Scoreboard
	var busy *BusyError
	var evidence *CorruptError
	switch {
	case err == nil:
		if !a.first {
			scoreboard.RequestAnswered(a.peer, elapsed)
		}
		// A peer that says it is done and has not sent everything lacks the rest.
		lacks := (reply.Missing | ^a.got) & a.req.Mask
		if lacks == 0 {
			return ResultOK
		}
		scoreboard.BlocksMissing(a.peer, a.req.Layer, a.req.First/block.ExtentBlocks, lacks)
		return ResultMissing
	case errors.As(err, &evidence):
		scoreboard.Ban(a.peer)
		a.f.cfg.Network.Ban(a.peer, evidence)
		return ResultCorrupt
	case a.out.failed() != nil:
		return ResultCancelled
	case errors.As(err, &busy):
		scoreboard.Busy(a.peer, busy.After)
		return ResultBusy
	case errors.Is(context.Cause(ctx), errSlow):
		scoreboard.Failed(a.peer)
		return ResultTimeout
	case ctx.Err() != nil:
		return ResultCancelled
	default:
		scoreboard.Failed(a.peer)
		return ResultFailed
	}
}

// deliver verifies one block and passes it on.
func (a *attempt) deliver(index uint32, data []byte) error {
	now := a.f.cfg.Now()
	a.timer.Stop()
	waited := now.Sub(a.waiting)
	a.budget -= waited
	if !a.first {
		a.first = true
		a.f.cfg.Scoreboard.RequestAnswered(a.peer, waited)
	}
	k := block.Key{Layer: a.req.Layer, Index: index}
	if evidence := a.verify(k, data); evidence != nil {
		return evidence
	}
	if a.got == 0 {
		a.f.cfg.Scoreboard.BlockReceived(a.peer, a.req.Layer)
	}
	a.got |= 1 << (index - a.req.First)
	a.bytes += len(data)
	if err := a.out.pass(k, data); err != nil {
		return err
	}
	a.waiting = a.f.cfg.Now()
	a.timer.Reset(max(min(a.patience, a.budget), 0))
	return nil
}

// verify returns nil if the block has the length and the digest it should have.
func (a *attempt) verify(k block.Key, data []byte) *CorruptError {
	size, known := a.f.cfg.Layout.StreamSize(k.Layer)
	want, ok := a.f.cfg.Layout.BlockDigest(k)
	got := block.Sum(data)
	if known && ok && len(data) == block.Length(size, k.Index) && got == want {
		return nil
	}
	return &CorruptError{Block: k, Want: want, Got: got, WantBytes: block.Length(size, k.Index), GotBytes: len(data)}
}
