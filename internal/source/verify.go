package source

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
)

// VerifyConfig configures [Verify].
type VerifyConfig struct {
	// Name says in errors and metrics which kind of source is verified: peer,
	// registry, shared. Required when Registerer is set.
	Name string
	// OnCorrupt is called with the key of every wrong block, if not nil, so that
	// whoever sent it can be dealt with. It must not block.
	OnCorrupt func(k block.Key)
	// Registerer takes the metrics, nil for none.
	Registerer prometheus.Registerer
}

type verifier struct {
	src     block.Source
	layout  block.Layout
	cfg     VerifyConfig
	corrupt prometheus.Counter
}

// Verify returns a source that passes on only blocks of src that have the length
// and the SHA-256 digest that layout says.
//
// A wrong block among those asked for is not passed on and ends the fetch with a
// [*block.Error] that wraps [block.ErrCorrupt]. A wrong block that was not asked
// for is dropped. Blocks of which layout knows no digest are not found: they could
// not be verified.
func Verify(src block.Source, layout block.Layout, cfg VerifyConfig) block.Source {
	return &verifier{
		src:    src,
		layout: layout,
		cfg:    cfg,
		corrupt: promauto.With(cfg.Registerer).NewCounter(prometheus.CounterOpts{
			Name:        "brisk_source_corrupt_blocks_total",
			Help:        "Blocks dropped because their bytes did not have the right length or digest.",
			ConstLabels: prometheus.Labels{"source": cfg.Name},
		}),
	}
}

// Fetch implements [block.Source].
func (v *verifier) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Count == 0 {
		return nil
	}
	known := req
	known.Count = v.known(req.Range)
	if known.Count == 0 {
		return v.wrap(req.Range, block.ErrNotFound)
	}
	d := newDelivery(known.Range, sink)
	var corrupt error
	err := v.src.Fetch(ctx, known, func(k block.Key, data []byte) error {
		if corrupt != nil {
			return corrupt
		}
		if wrong := v.check(k, data); wrong != nil {
			if !errors.Is(wrong, block.ErrCorrupt) {
				return nil // not asked for, and nothing to check it by
			}
			v.report(k)
			if req.Contains(k) {
				corrupt = v.wrap(block.Range{Layer: k.Layer, First: k.Index, Count: 1}, wrong)
			}
			return corrupt
		}
		return d.pass(k, data)
	})
	switch {
	case corrupt != nil:
		return corrupt
	case d.sinkErr != nil:
		return d.sinkErr
	case err != nil:
		return err
	case known.Count < req.Count || len(d.missing(known.Range)) > 0:
		return v.wrap(req.Range, block.ErrNotFound)
	}
	return nil
}

// known returns how many blocks of r, from the first on, the layer stream has.
func (v *verifier) known(r block.Range) uint32 {
	size, ok := v.layout.StreamSize(r.Layer)
	if !ok {
		return 0
	}
	count := block.Count(size)
	return min(r.Count, count-min(count, r.First))
}

// check returns nil for a right block, an error wrapping ErrCorrupt for a wrong
// one and ErrNotFound for one that no digest is known of.
func (v *verifier) check(k block.Key, data []byte) error {
	size, known := v.layout.StreamSize(k.Layer)
	want, ok := v.layout.BlockDigest(k)
	if !ok || !known {
		return fmt.Errorf("digest of block %s: %w", k, block.ErrNotFound)
	}
	if n := block.Length(size, k.Index); n != len(data) {
		return fmt.Errorf("%d bytes, not %d: %w", len(data), n, block.ErrCorrupt)
	}
	if got := block.Sum(data); got != want {
		return fmt.Errorf("digest is %s, not %s: %w", got.Short(), want.Short(), block.ErrCorrupt)
	}
	return nil
}

func (v *verifier) report(k block.Key) {
	v.corrupt.Inc()
	if v.cfg.OnCorrupt != nil {
		v.cfg.OnCorrupt(k)
	}
}

func (v *verifier) wrap(r block.Range, err error) error {
	return &block.Error{Source: v.cfg.Name, Op: "verifying", Range: r, Err: err}
}
