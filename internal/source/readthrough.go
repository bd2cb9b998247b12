package source

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
)

// putLogInterval is the minimum time between two log lines about blocks that could
// not be stored: a full disk refuses thousands per second.
const putLogInterval = 10 * time.Second

// ReadThroughConfig configures [ReadThrough].
type ReadThroughConfig struct {
	// Name is the name of the store in logs and metrics: memory, disk. Required if
	// Registerer is set.
	Name string
	// FallbackStore, if not nil, stores the blocks that the store does not accept, except those of
	// the background fill, which would only displace others.
	FallbackStore block.Store
	// Logger logs blocks that could not be stored; nil means none.
	Logger *slog.Logger
	// Registerer takes the metrics, nil for none.
	Registerer prometheus.Registerer
}

type readThrough struct {
	store    block.Store
	upstream block.Source
	cfg      ReadThroughConfig
	lastLog  atomic.Int64 // Unix nanoseconds
	hits     prometheus.Counter
	misses   prometheus.Counter
	refused  prometheus.Counter
}

// ReadThrough returns a source that delivers the blocks in store and fetches all others from
// upstream, whose blocks must be verified. Every block that upstream delivers,
// requested or not, is stored before it is delivered.
//
// A store that fails never fails the fetch: blocks that it cannot read are fetched
// from upstream, and blocks that it does not accept, such as when the disk is full,
// are delivered nevertheless.
func ReadThrough(store block.Store, upstream block.Source, cfg ReadThroughConfig) block.Source {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	labels := prometheus.Labels{"store": cfg.Name}
	metrics := promauto.With(cfg.Registerer)
	return &readThrough{
		store: store, upstream: upstream, cfg: cfg,
		hits: metrics.NewCounter(prometheus.CounterOpts{
			Name: "brisk_source_store_hits_total", ConstLabels: labels,
			Help: "Blocks delivered by the store in front of its upstream.",
		}),
		misses: metrics.NewCounter(prometheus.CounterOpts{
			Name: "brisk_source_store_misses_total", ConstLabels: labels,
			Help: "Blocks that the upstream of the store delivered, those not asked for included.",
		}),
		refused: metrics.NewCounter(prometheus.CounterOpts{
			Name: "brisk_source_store_refused_total", ConstLabels: labels,
			Help: "Blocks delivered that the store did not take.",
		}),
	}
}

// Fetch implements [block.Source].
func (f *readThrough) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Count == 0 {
		return nil
	}
	d := newDelivery(req.Range, sink)
	hits := 0
	err := f.store.Fetch(ctx, req, func(k block.Key, data []byte) error {
		hits++
		return d.pass(k, data)
	})
	f.hits.Add(float64(hits))
	switch {
	case d.sinkErr != nil:
		return d.sinkErr
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ended(ctx, err)
	}
	// One run that fails leaves the other runs to be delivered.
	var worst error
	for _, run := range d.missing(req.Range) {
		err := f.fetch(ctx, block.Request{Range: run, Class: req.Class}, d)
		switch {
		case d.sinkErr != nil:
			return d.sinkErr
		case ctx.Err() != nil && err != nil:
			return ended(ctx, err)
		}
		worst = graver(worst, err)
	}
	return worst
}

func (f *readThrough) fetch(ctx context.Context, req block.Request, d *delivery) error {
	return f.upstream.Fetch(ctx, req, func(k block.Key, data []byte) error {
		f.misses.Inc()
		if err := f.store.Put(ctx, k, data); err != nil && ctx.Err() == nil {
			if f.cfg.FallbackStore != nil && req.Class != block.ClassFill {
				err = errors.Join(err, f.cfg.FallbackStore.Put(ctx, k, data))
			}
			f.report(ctx, k, err)
		}
		return d.pass(k, data)
	})
}

func (f *readThrough) report(ctx context.Context, k block.Key, err error) {
	f.refused.Inc()
	last, now := f.lastLog.Load(), time.Now().UnixNano()
	if last != 0 && now-last < int64(putLogInterval) || !f.lastLog.CompareAndSwap(last, now) {
		return
	}
	f.cfg.Logger.WarnContext(ctx, "block not stored", "store", f.cfg.Name, "block", k.String(), "error", err)
}
