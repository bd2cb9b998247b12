package source

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// Tier is one source of a [Chain].
type Tier struct {
	// Name says in errors which source it is: memory, disk, peer, registry, shared.
	Name   string
	Source block.Source
	// ReadTimeout is how long the source may take for one fetch of
	// [block.ClassRead], 0 for as long as the context lasts.
	ReadTimeout time.Duration
	// Timeout is the same for every other class: nobody waits for those, so they
	// are better left to finish where they are cheap.
	Timeout time.Duration
}

type chain []Tier

// Chain returns a source that asks each source in turn for the blocks that have
// not been delivered yet, whatever the error of the one before.
//
// When blocks are still missing after the last one, the error wraps those of all
// sources that failed. It wraps [block.ErrNotFound] only if no source failed in
// another way: then nobody holds the blocks.
func Chain(links ...Tier) block.Source { return chain(links) }

// Fetch implements [block.Source].
func (c chain) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Count == 0 {
		return nil
	}
	d := newDelivery(req.Range, sink)
	failed := &chainError{req: req.Range}
	for i := range c {
		missing := d.missing(req.Range)
		if len(missing) == 0 {
			return nil
		}
		err := c[i].fetch(ctx, missing, req.Class, d)
		if d.sinkErr != nil {
			return d.sinkErr
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ended(ctx, err)
		}
		failed.add(c[i].Name, err)
	}
	if len(d.missing(req.Range)) == 0 {
		return nil
	}
	return failed
}

func (l *Tier) fetch(ctx context.Context, runs []block.Range, class block.Class, d *delivery) error {
	timeout := l.Timeout
	if class == block.ClassRead {
		timeout = l.ReadTimeout
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout,
			fmt.Errorf("no answer within %s: %w", timeout, block.ErrUnavailable))
		defer cancel()
	}
	var absent error
	for _, run := range runs {
		err := l.Source.Fetch(ctx, block.Request{Range: run, Class: class}, d.pass)
		switch {
		case err == nil:
		case d.sinkErr != nil, ctx.Err() != nil:
			return ended(ctx, err)
		case errors.Is(err, block.ErrNotFound):
			absent = graver(absent, err)
		default:
			return err
		}
	}
	return absent
}

// graver returns the first of two errors that is not "not found", which must not
// hide that asking again may help.
func graver(a, b error) error {
	if a == nil || b != nil && errors.Is(a, block.ErrNotFound) && !errors.Is(b, block.ErrNotFound) {
		return b
	}
	return a
}

// chainError says why every source of a chain did not deliver.
type chainError struct {
	req    block.Range
	text   []string
	absent []error // of sources that do not hold the blocks
	others []error
}

func (e *chainError) add(name string, err error) {
	e.text = append(e.text, name+": "+err.Error())
	if errors.Is(err, block.ErrNotFound) && !errors.Is(err, block.ErrUnavailable) {
		e.absent = append(e.absent, err)
	} else {
		e.others = append(e.others, err)
	}
}

// Error implements error.
func (e *chainError) Error() string {
	if len(e.text) == 0 {
		return fmt.Sprintf("reading blocks %s: there is no source", e.req)
	}
	return fmt.Sprintf("reading blocks %s: %s", e.req, strings.Join(e.text, "; "))
}

// Unwrap returns the causes.
func (e *chainError) Unwrap() []error {
	if len(e.others) > 0 {
		return e.others
	}
	if len(e.absent) > 0 {
		return e.absent
	}
	return []error{block.ErrNotFound}
}
