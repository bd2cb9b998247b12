package policy

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/brisk-project/brisk/internal/block"
)

// BlockRequest is one question to one peer: the blocks of an extent that bit i of Mask
// names, block First+i.
type BlockRequest struct {
	Layer   block.Digest
	First   uint32
	Mask    uint16
	Class   block.Class
	MaxWait time.Duration // how long the asker means to wait for all of it
}

// Reply is the end of an answer: the blocks that the peer does not hold.
type Reply struct {
	Missing uint16
}

// BusyError is the answer of a peer that has too much to do.
type BusyError struct {
	After time.Duration // when to ask again
}

// Error implements error.
func (e *BusyError) Error() string { return fmt.Sprintf("peer is busy for %s", e.After) }

// Network asks peers.
type Network interface {
	// Connected returns the peers that can be asked without waiting for a
	// connection.
	Connected() []PeerID
	// Request asks one peer and passes each block that comes to deliver, from one
	// goroutine, only blocks of req, each at most once, none after it has returned. It returns nil once the peer has said
	// what it lacks, a [*BusyError], the error of deliver as it is, the cause of ctx
	// when that ends, and any other error when the peer failed. Blocks are not
	// verified.
	Request(ctx context.Context, peer PeerID, req BlockRequest, deliver func(index uint32, data []byte) error) (Reply, error)
	// Ban breaks off with a peer for good and tells the operator why. The scoreboard
	// has banned it already.
	Ban(peer PeerID, evidence *CorruptError)
}

// CorruptError is what a peer is banned for: bytes that do not have the digest
// they should have. Block is the zero value when they were those of an object.
type CorruptError struct {
	Block     block.Key
	Want, Got block.Digest
	WantBytes int // length the block should have; 0 when not known
	GotBytes  int
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%v: %d bytes with digest %s, want %d bytes with digest %s",
		block.ErrCorrupt, e.GotBytes, e.Got, e.WantBytes, e.Want)
}

// Unwrap returns [block.ErrCorrupt].
func (e *CorruptError) Unwrap() error { return block.ErrCorrupt }

// Result is how one question to one peer ended.
type Result uint8

// The results, as metrics name them.
const (
	ResultOK      Result = iota // everything asked for came
	ResultMissing               // some or all of it is not held
	ResultBusy
	ResultTimeout
	ResultCancelled // the reader left
	ResultCorrupt
	ResultFailed
	Results int = iota // how many there are
)

// String names the result as metrics do.
func (r Result) String() string {
	names := [Results]string{"ok", "missing", "busy", "timeout", "cancelled", "corrupt", "failed"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("result %d", uint8(r))
}

// Outcome describes one question to one peer, for metrics.
type Outcome struct {
	Class   block.Class
	Result  Result
	Bytes   int           // verified and passed on
	Elapsed time.Duration // until the answer ended
}

const (
	// maxAttempts is how many peers are asked for an extent. In one rack a
	// question that is answered with "missing" costs about 0.2 ms, so eight cost
	// less than one registry request.
	maxAttempts = 8
	// parallelExtents is how many extents of one request are under way at once.
	parallelExtents = 4
	// DefaultSilenceTimeout is how long a peer may stay silent when a program waits,
	// at the first attempt. It doubles with every attempt.
	DefaultSilenceTimeout = 250 * time.Millisecond
	// DefaultReadBudget is how long a read waits for peers in all: after that the
	// registry is the better choice.
	DefaultReadBudget = time.Second
	// bulkFactor is how much more of both a request has that no program waits for.
	bulkFactor = 8
	// DefaultInflight bounds the blocks asked for and not passed on yet, for
	// urgent and for bulk requests each: 64 blocks are 16 MiB of buffers.
	DefaultInflight = 64
)

var (
	errSlow     = errors.New("no answer in time")
	errNotAsked = fmt.Errorf("%w: not asked", block.ErrUnavailable)
)

// Config is what a [Fetcher] works with.
type Config struct {
	Network    Network
	Layout     block.Layout
	Scoreboard *Scoreboard
	// Now is the clock; nil is [time.Now].
	Now func() time.Time
	// SilenceTimeout, ReadBudget and Inflight: 0 means the defaults above.
	SilenceTimeout time.Duration
	ReadBudget     time.Duration
	Inflight       int
	// Observe, if not nil, is called after every question, concurrently.
	Observe func(Outcome)
}

// Fetcher reads blocks from peers. It implements [block.Source] and is safe for
// concurrent use.
//
// Blocks no connected peer holds are [block.ErrNotFound]; when peers that might
// hold them failed, timed out or were busy it is [block.ErrUnavailable], and
// [block.ErrCorrupt] besides when one sent wrong bytes and no other peer made up
// for it.
type Fetcher struct {
	cfg    Config
	urgent *semaphore.Weighted
	bulk   *semaphore.Weighted
}

// NewFetcher returns a Fetcher. It starts nothing.
func NewFetcher(cfg Config) *Fetcher {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.SilenceTimeout == 0 {
		cfg.SilenceTimeout = DefaultSilenceTimeout
	}
	if cfg.ReadBudget == 0 {
		cfg.ReadBudget = DefaultReadBudget
	}
	if cfg.Inflight == 0 {
		cfg.Inflight = DefaultInflight
	}
	inflight := int64(max(cfg.Inflight, block.ExtentBlocks))
	return &Fetcher{cfg: cfg, urgent: semaphore.NewWeighted(inflight), bulk: semaphore.NewWeighted(inflight)}
}

// piece is what one Fetch wants of one extent.
type piece struct {
	extent uint32
	mask   uint16
}

// Fetch implements [block.Source].
func (f *Fetcher) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Count == 0 {
		return nil
	}
	if err := context.Cause(ctx); ctx.Err() != nil {
		return f.wrap(req, err)
	}
	pieces, beyond := f.plan(req.Range)
	out := &delivery{sink: sink}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelExtents)
	errs := slices.Repeat([]error{errNotAsked}, len(pieces))
	for i, p := range pieces {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error {
			errs[i] = f.fetchPiece(gctx, req, p, out)
			return out.failed() // stops the others only when the sink has had enough
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	err := summary(errs)
	switch {
	case err == nil && !beyond:
		return nil
	case ctx.Err() != nil:
		return f.wrap(req, context.Cause(ctx))
	case err == nil:
		err = block.ErrNotFound
	}
	return f.wrap(req, err)
}

func (f *Fetcher) wrap(req block.Request, err error) error {
	return &block.Error{Source: "peer", Op: "reading", Range: req.Range, Err: err}
}

// summary makes one error of those of the pieces.
func summary(errs []error) error {
	var worst error
	for _, err := range errs {
		worst = worse(worst, err)
	}
	return worst
}

// worse returns the error that says more, the first one if they are alike: that a
// peer sent wrong bytes more than that it failed, and that more than absence.
func worse(a, b error) error {
	if gravity(b) > gravity(a) {
		return b
	}
	return a
}

func gravity(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, block.ErrCorrupt):
		return 3
	case errors.Is(err, block.ErrUnavailable):
		return 2
	default:
		return 1
	}
}

// plan cuts a range into extents and leaves out blocks that the layout does not
// know, for those could not be verified. It reports whether there were any.
func (f *Fetcher) plan(r block.Range) ([]piece, bool) {
	size, known := f.cfg.Layout.StreamSize(r.Layer)
	if !known {
		return nil, true
	}
	end := min(uint64(r.First)+uint64(r.Count), uint64(block.Count(size)))
	beyond := end < uint64(r.First)+uint64(r.Count)
	var pieces []piece
	for i := uint64(r.First); i < end; i++ {
		if _, ok := f.cfg.Layout.BlockDigest(block.Key{Layer: r.Layer, Index: uint32(i)}); !ok {
			beyond = true
			continue
		}
		extent, bit := uint32(i/block.ExtentBlocks), i%block.ExtentBlocks
		if n := len(pieces); n == 0 || pieces[n-1].extent != extent {
			pieces = append(pieces, piece{extent: extent})
		}
		pieces[len(pieces)-1].mask |= 1 << bit
	}
	return pieces, beyond
}

// fetchPiece asks one peer after the other for what is left of a piece.
func (f *Fetcher) fetchPiece(ctx context.Context, req block.Request, p piece, out *delivery) error {
	limit := f.limit(req.Class)
	blocks := int64(bits.OnesCount16(p.mask))
	if err := limit.Acquire(ctx, blocks); err != nil {
		return fmt.Errorf("%w: %w", block.ErrUnavailable, context.Cause(ctx))
	}
	defer limit.Release(blocks)
	patience, budget := f.cfg.SilenceTimeout, f.cfg.ReadBudget
	if req.Class > block.ClassHead {
		patience, budget = bulkFactor*patience, bulkFactor*budget
	}
	skip := make(map[PeerID]bool)
	var failure error
	for range maxAttempts {
		if p.mask == 0 || budget <= 0 || ctx.Err() != nil || out.failed() != nil {
			break
		}
		peer, mask, ok := f.cfg.Scoreboard.Pick(req.Layer, p.extent, p.mask, f.cfg.Network.Connected(), skip)
		if !ok {
			break
		}
		skip[peer] = true
		a := &attempt{f: f, peer: peer, out: out, patience: min(patience, budget), budget: budget, req: BlockRequest{
			Layer: req.Layer, First: p.extent * block.ExtentBlocks, Mask: mask, Class: req.Class, MaxWait: budget,
		}}
		if err := a.run(ctx); err != nil {
			failure = worse(failure, fmt.Errorf("%w: %w", block.ErrUnavailable, err))
			patience *= 2
		}
		p.mask &^= a.got
		budget = a.budget
	}
	switch {
	case p.mask == 0:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", block.ErrUnavailable, context.Cause(ctx))
	case failure != nil:
		return failure
	default:
		return block.ErrNotFound
	}
}

func (f *Fetcher) limit(c block.Class) *semaphore.Weighted {
	if c <= block.ClassHead {
		return f.urgent
	}
	return f.bulk
}

// delivery passes blocks on to the sink of one Fetch, one at a time, and none
// after the sink has returned an error.
type delivery struct {
	sink block.Sink

	mu  sync.Mutex
	err error // of the sink
}

func (d *delivery) pass(k block.Key, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = d.sink(k, data)
	}
	return d.err
}

func (d *delivery) failed() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
