package blocktest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
)

// recorder is a testing.TB that remembers whether it was failed.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Errorf(string, ...any) { r.failed = true }

type sourceFunc func(ctx context.Context, req block.Request, sink block.Sink) error

func (f sourceFunc) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	return f(ctx, req, sink)
}

// TestFetchFindsFaults runs the checks over sources that break the contract.
func TestFetchFindsFaults(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	k := r.Key(0)
	good := fx.Content(k)
	for name, src := range map[string]sourceFunc{
		"nothing delivered": func(context.Context, block.Request, block.Sink) error { return nil },
		"block missing": func(_ context.Context, req block.Request, sink block.Sink) error {
			for i := range req.Count - 1 {
				if err := sink(req.Key(i), fx.Content(req.Key(i))); err != nil {
					return err
				}
			}
			return nil
		},
		"delivered twice": func(_ context.Context, _ block.Request, sink block.Sink) error {
			for range 2 {
				if err := sink(k, good); err != nil {
					return err
				}
			}
			return block.ErrUnavailable
		},
		"short block": func(_ context.Context, _ block.Request, sink block.Sink) error {
			return errors.Join(sink(k, good[1:]), block.ErrUnavailable)
		},
		"wrong block": func(_ context.Context, _ block.Request, sink block.Sink) error {
			return errors.Join(sink(k, fx.Content(r.Key(1))), block.ErrUnavailable)
		},
		"block that is none": func(_ context.Context, _ block.Request, sink block.Sink) error {
			return errors.Join(sink(block.Key{Layer: k.Layer, Index: 1000}, good), block.ErrUnavailable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			tb := &recorder{TB: t}
			_, err := blocktest.Fetch(t.Context(), tb, fx, src, r)
			if !tb.failed {
				t.Errorf("nothing was found (error of the fetch: %v)", err)
			}
		})
	}
}
