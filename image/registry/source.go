package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	defaultRequests = 24
	// fetchPieces is how many requests one Fetch has in flight.
	fetchPieces = 4
	// rounds is how often a Fetch looks at what is missing: once for itself, then
	// for what others who were reading it have not left behind.
	rounds = 3
	// sourceName is what errors and metrics call a registry.
	sourceName = "registry"
)

// SourceConfig configures a [Source]. The zero value has the defaults.
type SourceConfig struct {
	// Requests is how many requests for ranges are in flight at most. A quarter of them is
	// kept for reads that a program waits for. Default 24.
	Requests int
	// Cache gets every block of a layer that is streamed, and has to refuse wrong ones with
	// [block.ErrCorrupt]. It is asked for blocks that the stream has passed. With nil, a
	// stream ends when nobody waits for it, and is begun anew for a block that it has
	// passed.
	Cache block.Store
	// RangesOnly makes fetches fail with [ErrNoRanges] where a layer would have to be streamed.
	RangesOnly bool
	// Parts, if not nil, keeps parts of indexes of which only the head is local.
	Parts Objects
	// Streamed, if not nil, is told of the blocks that went to the cache only, with their
	// lengths. It must not block.
	Streamed func(k block.Key, n int)
	// Registerer takes the metrics, nil for none.
	Registerer prometheus.Registerer
}

// Source reads blocks of the layers that were added to it from their
// repositories. It implements [block.Source] and is safe for concurrent use.
//
// A request for blocks becomes one ranged read for every extent it touches, of
// the stored bytes of exactly the frames that hold the blocks. Every block those
// frames hold is delivered.
//
// A layer that cannot be read in parts is streamed from its start to its end, once for all
// fetches that wait for it: one in a frame that is too long to be decoded for a single
// block, and one whose registry does not serve ranges of it, or serves wrong ones
// repeatedly. Each fetch gets only what it asked for; everything goes to the cache.
//
// The blocks have the right length, but are not verified: that is done in front
// of any source. Errors are [*block.Error]s that wrap, beside the sentinels of
// package block, [ErrDenied], [ErrInvalid] and [ErrNoRanges]. Those that come
// from an answer with a Retry-After header have a [*StatusError] inside.
type Source struct {
	cfg     SourceConfig
	client  *Client
	permits *permits // of requests for ranges
	streams *permits // of passes
	metrics *sourceMetrics
	buffers sync.Pool // of *[block.Size]byte
	parts   *parts
	windows *windows
	running sync.WaitGroup // passes

	mu       sync.Mutex
	closed   bool
	layers   map[block.Digest][]*location
	streamed map[block.Digest]*streamed
}

// location is where a layer can be had.
type location struct {
	repo  name.Repository
	layer *index.Layer
	users int
	ranges
}

// NewSource returns a source without layers.
func NewSource(client *Client, cfg SourceConfig) (*Source, error) {
	if cfg.Requests == 0 {
		cfg.Requests = defaultRequests
	}
	if cfg.Requests < 1 {
		return nil, fmt.Errorf("registry source: %d requests at a time", cfg.Requests)
	}
	parts, err := newParts()
	if err != nil {
		return nil, fmt.Errorf("registry source: %w", err)
	}
	windows, err := newWindows(client, cfg.Parts)
	if err != nil {
		return nil, fmt.Errorf("registry source: %w", err)
	}
	return &Source{
		cfg:      cfg,
		windows:  windows,
		client:   client,
		permits:  newPermits(cfg.Requests),
		streams:  newPermits(maxStreams),
		metrics:  newSourceMetrics(cfg.Registerer),
		buffers:  sync.Pool{New: func() any { return new([block.Size]byte) }},
		parts:    parts,
		layers:   make(map[block.Digest][]*location),
		streamed: make(map[block.Digest]*streamed),
	}, nil
}

// Add makes the blocks of a layer available from a repository. The same layer may
// be added from several repositories, and more than once; every Add needs its
// Remove, until which the index must stay open.
func (s *Source) Add(repo name.Repository, layer *index.Layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers[layer.StreamID()] {
		if l.repo.String() == repo.String() && l.layer == layer {
			l.users++
			return
		}
	}
	s.layers[layer.StreamID()] = append(s.layers[layer.StreamID()], &location{repo: repo, layer: layer, users: 1})
}

// Remove takes one Add back. Removing what is not there does nothing. Fetches
// under way go on, but for those of a stream, which ends.
func (s *Source) Remove(repo name.Repository, layer *index.Layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := make([]*location, 0, len(s.layers[layer.StreamID()]))
	for _, l := range s.layers[layer.StreamID()] {
		if l.repo.String() == repo.String() && l.layer == layer {
			l.users--
		}
		if l.users > 0 {
			kept = append(kept, l)
		}
	}
	if len(kept) == 0 {
		delete(s.layers, layer.StreamID())
		s.endStreamsLocked(layer.StreamID(), errRemoved)
		return
	}
	s.layers[layer.StreamID()] = kept
}

func (s *Source) locations(stream block.Digest) []*location {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*location(nil), s.layers[stream]...)
}

// Fetch implements [block.Source].
func (s *Source) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if req.Count == 0 {
		return nil
	}
	err := s.fetch(ctx, req, sink)
	if failed, ok := errors.AsType[*sinkError](err); ok {
		return failed.err
	}
	if err != nil {
		return &block.Error{Source: sourceName, Op: "reading", Range: req.Range, Err: err}
	}
	return nil
}

// sinkError carries the error of a sink past the code that explains errors.
type sinkError struct{ err error }

func (e *sinkError) Error() string { return e.err.Error() }

// saysCorrupt reports whether a sink has refused a block for its bytes.
func saysCorrupt(err error) bool {
	failed, ok := errors.AsType[*sinkError](err)
	return ok && errors.Is(failed.err, block.ErrCorrupt)
}

func (s *Source) fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	locations := s.locations(req.Layer)
	if len(locations) == 0 {
		return fmt.Errorf("%w: the layer is not known", block.ErrNotFound)
	}
	layer := locations[0].layer
	want := req.Range
	total := block.Count(layer.StreamSize())
	want.Count = min(want.Count, total-min(total, want.First))
	if want.Count > 0 {
		d := newDelivery(layer, want, func(k block.Key, data []byte) error {
			if err := sink(k, data); err != nil {
				return &sinkError{err}
			}
			return nil
		})
		// What failed after the last block that was asked for does not matter.
		if err := s.fetchAny(ctx, locations, req.Class, d); err != nil && (d.sinkErr() != nil || !d.complete()) {
			return err
		}
	}
	if want.Count < req.Count {
		return fmt.Errorf("%w: the layer has %d blocks", block.ErrNotFound, total)
	}
	return nil
}

// fetchAny asks one repository after the other, for as long as they do not have
// the layer or do not give it.
func (s *Source) fetchAny(ctx context.Context, locations []*location, class block.Class, d *delivery) error {
	var errs error
	for _, loc := range locations {
		err := s.fetchFrom(ctx, loc, class, d)
		if err == nil || d.sinkErr() != nil {
			return err
		}
		errs = errors.Join(errs, err)
		if !notFound(err) && !errors.Is(err, ErrDenied) {
			return errs
		}
	}
	return errs
}

func (s *Source) fetchFrom(ctx context.Context, loc *location, class block.Class, d *delivery) error {
	if loc.layer.FrameCount() == 1 && !loc.layer.Seekable() {
		return s.fetchStreamed(ctx, loc, class, d)
	}
	part := loc.partOf(d.want)
	if loc.unranged(part, time.Now()) {
		err := s.fetchStreamed(ctx, loc, class, d)
		if err == nil {
			loc.works(time.Now())
		}
		return err
	}
	err := s.fetchRanges(ctx, loc, class, d)
	switch sink := d.sinkErr(); {
	case sink == nil:
		loc.note(part, err)
	case saysCorrupt(sink):
		loc.note(part, block.ErrCorrupt)
	}
	if err == nil || d.sinkErr() != nil || ctx.Err() != nil || !loc.unranged(part, time.Now()) {
		return err
	}
	s.client.log.WarnContext(ctx, "reading a layer whole: its registry does not serve ranges of it as it should",
		"repository", loc.repo.String(), "layer", loc.layer.BlobDigest().String(), "error", err)
	s.client.forgetRanges(loc.repo)
	whole := s.fetchStreamed(ctx, loc, class, d)
	switch {
	case whole == nil:
		loc.works(time.Now())
		return nil
	case errors.Is(err, ErrNoRanges), d.sinkErr() != nil:
		return whole
	default:
		return fmt.Errorf("%w (and read whole: %s)", err, whole.Error())
	}
}

// fetchRanges reads the frames that hold what is missing.
func (s *Source) fetchRanges(ctx context.Context, loc *location, class block.Class, d *delivery) error {
	for round := range rounds {
		missing := d.missing()
		if missing.Count == 0 {
			return nil
		}
		if err := s.fetchMissing(ctx, loc, class, d, missing, round < rounds-1); err != nil {
			return err
		}
	}
	if !d.complete() {
		return fmt.Errorf("%w: the frames asked for do not hold the blocks", block.ErrCorrupt)
	}
	return nil
}

// fetchMissing reads the frames that hold what is missing, but for those at the ends
// of which a part is kept or, if share is set, that somebody else is reading.
func (s *Source) fetchMissing(
	ctx context.Context, loc *location, class block.Class, d *delivery, missing block.Range, share bool,
) error {
	if err := s.parts.use(loc.layer, missing, d); err != nil {
		return err
	}
	from, to := d.need(missing)
	if from >= to {
		return nil
	}
	var others []*reading
	if share {
		from, to, others = s.parts.share(loc.layer, class, from, to)
	}
	var pieces []piece
	if from < to {
		var err error
		if pieces, err = plan(loc.layer, from, to); err != nil {
			return err
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(fetchPieces)
	for _, p := range pieces {
		end := s.parts.begin(loc.layer.BlobDigest(), p, class)
		group.Go(func() error {
			defer end()
			if err := s.fetchPiece(groupCtx, loc, class, p, d.add); err != nil {
				return err
			}
			return s.parts.keep(d, p)
		})
	}
	if err := group.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil && d.sinkErr() == nil {
			return fmt.Errorf("%w: %w", cause, err)
		}
		return err
	}
	return await(ctx, others)
}

// fetchPiece reads and decodes the frames of one piece. What they hold is handed
// to each in order, in chunks that never reach over the end of a block, with its
// offset in the layer stream.
func (s *Source) fetchPiece(
	ctx context.Context, loc *location, class block.Class, p piece, each func(at int64, data []byte) error,
) (err error) {
	if err := s.permits.acquire(ctx, class); err != nil {
		return err
	}
	defer s.permits.release()
	s.metrics.request(class)
	defer func() { s.metrics.finished(err) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	window := s.windows.begin(ctx, loc, p.first)
	body, err := s.client.getBlob(ctx, loc.repo, loc.layer.BlobDigest(), p.blob(loc.layer))
	if err != nil {
		return err
	}
	body.counter = func(n int) { s.metrics.received(class, n) }
	defer func() {
		// After an error the connection is not worth another word.
		if closeErr := body.Close(); err == nil && closeErr != nil && body.err == nil {
			s.client.log.DebugContext(ctx, "closing a blob", "error", closeErr)
		}
	}()
	history, err := window()
	if err != nil {
		return err
	}
	decoded, err := loc.layer.DecodeFrom(history, p.first, p.count, body)
	if err != nil {
		return decodeError(body, err)
	}
	var refused error // by each, which has nothing to do with the bytes
	err = s.chunks(decoded, p, func(at int64, data []byte) error {
		refused = each(at, data)
		return refused
	})
	closeErr := decoded.Close()
	switch {
	case refused != nil:
		if saysCorrupt(refused) {
			body.from.avoid()
		}
		return refused
	case err != nil:
		return decodeError(body, err)
	case closeErr != nil:
		return decodeError(body, closeErr)
	default:
		return nil
	}
}

// decodeError tells bytes that did not come from bytes that are wrong.
func decodeError(body *exactBody, err error) error {
	if body.err != nil {
		return body.err
	}
	body.from.avoid()
	return fmt.Errorf("%w: %w", block.ErrCorrupt, err)
}
