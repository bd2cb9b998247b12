package proof

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// ErrFalse is wrapped by errors about an index that does not describe its layer stream.
var ErrFalse = errors.New("layer index is false")

// StreamDigests are the digests of a layer stream that an index must match.
type StreamDigests struct {
	// DiffID is the digest of the stream. It is zero if Invalid is set.
	DiffID block.Digest `json:"diffID,omitzero"`
	// Entries is the digest of all entries.
	Entries block.Digest `json:"entries,omitzero"`
	// Invalid is the reason why the stream is not a layer.
	Invalid string `json:"invalid,omitempty"`
}

// RebuiltIndex is a layer index that was built from the stream, with its digests.
type RebuiltIndex struct {
	StreamDigests

	layer *index.Layer // nil if the stream is invalid
}

// Prover builds the index of one layer stream again. It is for one goroutine.
type Prover struct {
	in     *io.PipeWriter
	ctx    context.Context //nolint:containedctx // of the goroutine that a Prover is
	cancel context.CancelFunc
	built  chan build
}

type build struct {
	result *index.Result
	err    error
}

// New returns a Prover. It must be ended with Finish or Discard, also after the end of ctx.
// BlockDigest, if not nil, returns the digest of block i of the stream if the block was
// verified against it before it is written: that spares hashing the block again.
func New(ctx context.Context, blockDigest func(i uint32) (block.Digest, bool)) *Prover {
	ctx, cancel := context.WithCancel(ctx)
	out, in := io.Pipe()
	p := &Prover{in: in, ctx: ctx, cancel: cancel, built: make(chan build, 1)}
	go func() {
		result, err := index.Build(ctx, out, index.BuildConfig{Uncompressed: true, BlockDigest: blockDigest})
		// Nobody reads any more; the writer must not wait.
		_ = out.CloseWithError(errDone)
		p.built <- build{result, err}
	}()
	return p
}

var errDone = errors.New("the stream is complete")

// Write takes the next bytes of the stream.
func (p *Prover) Write(data []byte) {
	// An error means that the stream is not a layer. Finish returns it.
	_, _ = p.in.Write(data) //nolint:errcheck // see above
}

// Discard ends a Prover that has not been given the whole stream.
func (p *Prover) Discard() {
	p.cancel()
	_ = p.in.CloseWithError(errDone)
	<-p.built
}

// Finish ends the stream and returns its index. It fails if the context of the Prover has
// ended.
func (p *Prover) Finish() (RebuiltIndex, error) {
	defer p.cancel()
	_ = p.in.Close() //nolint:errcheck // it returns none
	made := <-p.built
	if err := p.ctx.Err(); err != nil {
		return RebuiltIndex{}, fmt.Errorf("proving a layer stream: %w", err)
	}
	if made.err != nil {
		// The stream comes from memory: what fails is its format, or a limit.
		return RebuiltIndex{StreamDigests: StreamDigests{Invalid: made.err.Error()}}, nil
	}
	layer, err := index.Open(bytes.NewReader(made.result.Encoded), int64(len(made.result.Encoded)))
	if err != nil {
		return RebuiltIndex{}, fmt.Errorf("reading the index of a layer stream: %w", err)
	}
	entries, err := digest(layer)
	if err != nil {
		return RebuiltIndex{}, err
	}
	return RebuiltIndex{StreamDigests: StreamDigests{DiffID: made.result.DiffID, Entries: entries}, layer: layer}, nil
}

// Check compares an index of the stream with the digests. The error wraps [ErrFalse] if they
// differ. Other errors have no result.
func (f StreamDigests) Check(claimed *index.Layer) error {
	if err := f.checkStream(claimed); err != nil {
		return err
	}
	entries, err := digest(claimed)
	if err := falseFormat(err); err != nil {
		return err
	}
	if entries != f.Entries {
		return fmt.Errorf("%w: its entries are not those of the tar", ErrFalse)
	}
	return nil
}

func (f StreamDigests) checkStream(claimed *index.Layer) error {
	switch {
	case f.Invalid != "":
		return fmt.Errorf("%w: the stream cannot be unpacked: %s", ErrFalse, f.Invalid)
	case f.DiffID != claimed.DiffID():
		return fmt.Errorf("%w: it claims diffID %s, the stream has %s", ErrFalse, claimed.DiffID(), f.DiffID)
	}
	return nil
}

// Check is like [StreamDigests.Check], but the error names the first entry that differs.
func (t RebuiltIndex) Check(claimed *index.Layer) error {
	if err := t.checkStream(claimed); err != nil {
		return err
	}
	there, stop := iter.Pull2(t.layer.Entries())
	defer stop()
	for lie, err := range claimed.Entries() {
		if err := falseFormat(err); err != nil {
			return err
		}
		actual, err, ok := there()
		if err != nil {
			return fmt.Errorf("walking the entries of a layer stream: %w", err)
		}
		if !ok {
			return fmt.Errorf("%w: it has entry %.200q, which the tar has not", ErrFalse, lie.Path)
		}
		if what := difference(lie, actual); what != "" {
			return fmt.Errorf("%w: %s", ErrFalse, what)
		}
	}
	if actual, err, ok := there(); err != nil {
		return fmt.Errorf("walking the entries of a layer stream: %w", err)
	} else if ok {
		return fmt.Errorf("%w: it lacks entry %.200q of the tar", ErrFalse, actual.Path)
	}
	return nil
}

// falseFormat makes entries that cannot be read, though their digest is right, a lie.
func falseFormat(err error) error {
	if errors.Is(err, index.ErrFormat) {
		return fmt.Errorf("%w: %w", ErrFalse, err)
	}
	return err
}
