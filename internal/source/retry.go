package source

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
)

// RetryConfig configures [Retry]. The zero value has the defaults.
type RetryConfig struct {
	// Attempts is how often a block is asked for at most, the first time
	// included. Default 4.
	Attempts int
	// MinDelay is the longest wait before the second attempt. It doubles with
	// every attempt up to MaxDelay; the wait is between half of it and all of it,
	// so that many nodes do not come back at the same moment. Defaults 50 ms and
	// 2 s.
	MinDelay time.Duration
	MaxDelay time.Duration
	// MaxRetryAfter is the longest wait that the other side may ask for. When it
	// asks for more the fetch fails at once. Default 30 s.
	MaxRetryAfter time.Duration
	// Name says in metrics which kind of source is asked again. Required when
	// Registerer is set.
	Name string
	// Registerer takes the metrics, nil for none.
	Registerer prometheus.Registerer
}

// retryAfter is implemented by errors that know how long to wait.
type retryAfter interface {
	error
	RetryAfter() time.Duration
}

type retrier struct {
	src     block.Source
	cfg     RetryConfig
	retries prometheus.Counter
}

// Retry returns a source that asks src again when a fetch fails, only for the
// blocks that have not come yet.
//
// Blocks that are not found, the end of the context and errors of the sink are
// final. A corrupt block is asked for once more. An error with a method
// RetryAfter() time.Duration sets the least time to wait. A fetch whose context
// would end before the next attempt fails at once with the error of the last one.
func Retry(src block.Source, cfg RetryConfig) block.Source {
	if cfg.Attempts <= 0 {
		cfg.Attempts = 4
	}
	if cfg.MinDelay <= 0 {
		cfg.MinDelay = 50 * time.Millisecond
	}
	if cfg.MaxDelay <= 0 {
		cfg.MaxDelay = 2 * time.Second
	}
	if cfg.MaxRetryAfter <= 0 {
		cfg.MaxRetryAfter = 30 * time.Second
	}
	return &retrier{src: src, cfg: cfg, retries: promauto.With(cfg.Registerer).NewCounter(prometheus.CounterOpts{
		Name:        "brisk_source_retries_total",
		Help:        "Fetches that were made again after a failure.",
		ConstLabels: prometheus.Labels{"source": cfg.Name},
	})}
}

// Fetch implements [block.Source].
func (r *retrier) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Count == 0 {
		return nil
	}
	d := newDelivery(req.Range, sink)
	runs := []block.Range{req.Range}
	var notFound error
	for attempt, corrupt := 1, 0; ; attempt++ {
		left, absent, err := r.pass(ctx, runs, req.Class, d)
		if absent != nil {
			notFound = absent
		}
		switch {
		case d.sinkErr != nil:
			return d.sinkErr
		case err == nil:
			return notFound
		case ctx.Err() != nil:
			return ended(ctx, err)
		}
		if errors.Is(err, block.ErrCorrupt) {
			corrupt++
		}
		if attempt >= r.cfg.Attempts || corrupt > 1 {
			return fmt.Errorf("after %d attempts: %w", attempt, err)
		}
		if !r.wait(ctx, attempt, err) {
			return ended(ctx, err)
		}
		r.retries.Inc()
		runs = left
	}
}

// pass asks once for every run. It stops at the first failure worth another
// attempt, err, and returns the blocks left to ask for then. Blocks that are
// not found are not among them; absent is the error that says so.
func (r *retrier) pass(
	ctx context.Context, runs []block.Range, class block.Class, d *delivery,
) (left []block.Range, absent, err error) {
	for i, run := range runs {
		err := r.src.Fetch(ctx, block.Request{Range: run, Class: class}, d.pass)
		switch {
		case d.sinkErr != nil:
			return nil, absent, d.sinkErr
		case err == nil:
		case errors.Is(err, block.ErrNotFound):
			absent = err
		default:
			return append(d.missing(run), runs[i+1:]...), absent, err
		}
	}
	return nil, absent, nil
}

// wait waits before the attempt after the given one and reports whether it is
// worth making.
func (r *retrier) wait(ctx context.Context, attempt int, err error) bool {
	delay := min(r.cfg.MaxDelay, r.cfg.MinDelay<<min(attempt-1, 20))
	delay -= rand.N(delay/2 + 1) //nolint:gosec // spreads load, keeps no secret
	if after, ok := errors.AsType[retryAfter](err); ok {
		delay = max(delay, after.RetryAfter())
		if delay > r.cfg.MaxRetryAfter {
			return false
		}
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= delay {
		return false
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ended returns err, or an error that also wraps the cause of the context if the
// context has ended.
func ended(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w, last error: %w", cause, err)
}
