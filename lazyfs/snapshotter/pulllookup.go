package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// keptPulls is how many pulls keep their status.
	keptPulls = 512
	// pullIdle is how long a pull may pause between two layers before it counts as ended.
	pullIdle = 10 * time.Minute
	// maxImageID bounds what is written into labels, in bytes.
	maxImageID = 1 << 10
)

// PullStatus is the result of the pull of an image.
type PullStatus struct {
	Image    string    `json:"image"`            // the reference that was pulled
	Manifest string    `json:"manifest"`         // the digest of its manifest
	Lazy     bool      `json:"lazy"`             // whether layers of it are loaded when they are read
	Reason   Reason    `json:"reason,omitempty"` // why not, or not all of them
	Detail   string    `json:"detail,omitempty"` // more on the reason
	Started  time.Time `json:"started"`          // when the first layer was asked for
}

// pullKey identifies a pull, which is looked up once.
type pullKey struct{ image, manifest string }

// decision is the result of looking up an image that is being pulled.
type decision struct {
	done  chan struct{} // closed when the next three are set
	err   error         // why there is none
	image Image         // nil for a plain pull
	chain []string      // the chain IDs of image

	status PullStatus // guarded by the decider, as are those below
	used   time.Time
	retry  bool // the next pull looks the image up again
}

// decider decides once for each image whether its pull is lazy.
type decider struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	mu      sync.Mutex // guards the fields below
	pulls   *simplelru.LRU[pullKey, *decision]
	lookups map[*decision]context.CancelFunc // running look-ups
	stopped bool                             // new look-ups are canceled

	saving sync.Mutex // held while the file of pulls is written
}

// errBefore is the error of a decision of which only the status is kept.
var errBefore = errors.New("decided before")

func newDecider(cfg Config, m *metrics) (*decider, error) {
	pulls, err := simplelru.NewLRU[pullKey, *decision](keptPulls, nil)
	if err != nil {
		return nil, fmt.Errorf("making room for pulls: %w", err)
	}
	return &decider{cfg: cfg, log: cfg.Logger, metrics: m, pulls: pulls, lookups: make(map[*decision]context.CancelFunc)}, nil
}

// decide returns the decision on a pull, after looking the image up if this is the
// first layer of it. bottom marks the lowest layer. A decision for an image
// that must not be used any more is dropped, and the image is looked up again.
func (d *decider) decide(ctx context.Context, pull Pull, bottom bool) (*decision, error) {
	dec, err := d.current(ctx, pull, bottom)
	if err != nil || dec.image == nil || d.cfg.Check == nil || d.cfg.Check(dec.image.ID(), len(dec.chain)) == nil {
		return dec, err
	}
	d.drop(pullKey{pull.Image, pull.Manifest}, dec)
	return d.current(ctx, pull, bottom)
}

// drop removes a decision.
func (d *decider) drop(key pullKey, dec *decision) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if current, ok := d.pulls.Peek(key); ok && current == dec {
		d.pulls.Remove(key)
	}
}

// current returns the valid decision, or looks the image up.
func (d *decider) current(ctx context.Context, pull Pull, bottom bool) (*decision, error) {
	key := pullKey{pull.Image, pull.Manifest}
	now := time.Now()
	d.mu.Lock()
	if dec, ok := d.pulls.Get(key); ok && d.valid(dec, now, bottom) {
		dec.used = now
		d.mu.Unlock()
		select {
		case <-dec.done:
			return dec, dec.err
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the look-up of %s: %w", pull.Image, context.Cause(ctx))
		}
	}
	dec := &decision{done: make(chan struct{}), used: now}
	dec.status = PullStatus{Image: pull.Image, Manifest: pull.Manifest, Started: now}
	// Other callers wait for the answer, so it must not depend on the context of this one.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if d.stopped {
		cancel()
	}
	d.lookups[dec] = cancel
	d.pulls.Add(key, dec)
	d.mu.Unlock()
	d.lookUp(ctx, pull, dec)
	d.finishLookup(key, dec, ctx.Err() != nil)
	d.save(ctx)
	return dec, dec.err
}

// finishLookup publishes a decision. canceled says that its look-up was canceled.
func (d *decider) finishLookup(key pullKey, dec *decision, canceled bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer close(dec.done)
	delete(d.lookups, dec)
	if canceled {
		// A canceled look-up is no decision against lazy loading.
		d.pulls.Remove(key)
		dec.image, dec.err = nil, fmt.Errorf("looking up %s: %w: the snapshotter is stopping", key.image, errdefs.ErrUnavailable)
	}
}

// stop cancels the look-ups that are running. New ones are canceled at once.
func (d *decider) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for _, cancel := range d.lookups {
		cancel()
	}
}

// valid reports whether a decision can be used. A decision against lazy loading is valid for
// the other layers of its pull, and for other pulls until Config.RetryAfter has passed.
func (d *decider) valid(dec *decision, now time.Time, bottom bool) bool {
	select {
	case <-dec.done:
	default:
		return true
	}
	if now.Sub(dec.used) > pullIdle {
		return false
	}
	if dec.err != nil {
		return false
	}
	return dec.image != nil || !bottom || !dec.retry && now.Sub(dec.status.Started) < d.cfg.RetryAfter
}

// lookAgain makes the next pull of an image look it up again if it was not lazy.
func (d *decider) lookAgain(manifest string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range d.pulls.Keys() {
		if dec, ok := d.pulls.Peek(key); ok && key.manifest == manifest {
			dec.retry = true
		}
	}
}

// lookUp looks the image up and fills in the decision.
func (d *decider) lookUp(ctx context.Context, pull Pull, dec *decision) {
	image, err := d.find(ctx, pull)
	took := time.Since(dec.status.Started)
	d.metrics.lookedUp(took)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		d.plain(ctx, dec, reasonOf(err), err)
		return
	}
	dec.image, dec.chain = image, image.ChainIDs()
	d.mu.Lock()
	dec.status.Lazy = true
	d.mu.Unlock()
	d.metrics.pulled(true, "")
	d.log.InfoContext(ctx, "layers are loaded when they are read", "image", pull.Image,
		"manifest", pull.Manifest, "layers", len(dec.chain), "took", took)
}

func (d *decider) find(ctx context.Context, pull Pull) (Image, error) {
	limited, cancel := context.WithTimeout(ctx, d.cfg.LookupTimeout)
	defer cancel()
	image, err := d.cfg.Images.Lookup(limited, pull)
	if err != nil {
		if limited.Err() != nil {
			err = &ReasonError{ReasonSlow, fmt.Errorf("no answer within %s: %w", d.cfg.LookupTimeout, err)}
		}
		return nil, err
	}
	limited, cancel = context.WithTimeout(ctx, d.cfg.FetchTimeout)
	defer cancel()
	if err := image.Fetch(limited); err != nil {
		if limited.Err() != nil {
			err = &ReasonError{ReasonSlow, fmt.Errorf("no index within %s: %w", d.cfg.FetchTimeout, err)}
		}
		return nil, err
	}
	if n := len(image.ID()); n == 0 || n > maxImageID {
		return nil, fmt.Errorf("looking up %s: its ID has %d bytes", pull.Image, n)
	}
	return image, nil
}

// plain records, and logs once for each reason, that layers of an image are downloaded in full.
func (d *decider) plain(ctx context.Context, dec *decision, reason Reason, err error) {
	d.mu.Lock()
	logged := dec.status.Reason == reason
	dec.status.Reason, dec.status.Detail = reason, err.Error()
	status := dec.status
	d.mu.Unlock()
	if logged {
		return
	}
	d.metrics.pulled(false, reason)
	level := slog.LevelWarn
	if reason == ReasonNoIndex || reason == ReasonMode {
		level = slog.LevelInfo
	}
	d.log.Log(ctx, level, "layers are downloaded in full", "image", status.Image, "manifest", status.Manifest,
		"reason", string(reason), "error", err)
}

// unknown logs that containerd does not name the image that it pulls.
func (d *decider) unknown(ctx context.Context, chainID string) {
	d.metrics.pulled(false, ReasonNoLabels)
	d.log.WarnContext(ctx, "layers are downloaded in full", "chain", chainID, "reason", string(ReasonNoLabels),
		"error", errors.New("containerd passes no image labels to snapshotters"))
}

// retain drops the decisions for images that are not in kept. The status of an image that
// does not match its index stays, because it is the reason for the plain pull. No look-up
// may be running.
func (d *decider) retain(kept []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range d.pulls.Keys() {
		dec, ok := d.pulls.Peek(key)
		if !ok || dec.image == nil || slices.Contains(kept, dec.image.ID()) {
			continue
		}
		d.pulls.Remove(key)
		if dec.status.Reason == ReasonMismatch {
			d.pulls.Add(key, &decision{done: dec.done, err: errBefore, status: dec.status, used: dec.used})
		}
	}
}

// all returns the status of all finished look-ups, the least recently used first.
func (d *decider) all() []PullStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []PullStatus
	for _, dec := range d.pulls.Values() {
		select {
		case <-dec.done:
			all = append(all, dec.status)
		default:
		}
	}
	return all
}
