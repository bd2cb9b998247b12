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
	// keptPulls is how many pulls are remembered.
	keptPulls = 512
	// pullIdle is how long a pull may not ask for a further layer and still go on.
	pullIdle = 10 * time.Minute
	// maxImageID bounds what is written into labels, in bytes.
	maxImageID = 1 << 10
)

// PullStatus tells what became of the pull of an image.
type PullStatus struct {
	Image    string    `json:"image"`            // the reference that was pulled
	Manifest string    `json:"manifest"`         // the digest of its manifest
	Lazy     bool      `json:"lazy"`             // whether layers of it are loaded when they are read
	Reason   Reason    `json:"reason,omitempty"` // why not, or not all of them
	Detail   string    `json:"detail,omitempty"` // more on the reason
	Started  time.Time `json:"started"`          // when the first layer was asked for
}

// pullKey names what is looked up once.
type pullKey struct{ image, manifest string }

// decision is what is known of an image that is being pulled.
type decision struct {
	done  chan struct{} // closed when the next three are set
	err   error         // why there is none
	image Image         // nil for a plain pull
	chain []string      // the chain IDs of image

	status PullStatus // guarded by the decider, as are those below
	used   time.Time
	again  bool // there is reason to look again
}

// decider decides once for each image whether its pull is lazy.
type decider struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	mu      sync.Mutex // guards what follows
	pulls   *simplelru.LRU[pullKey, *decision]
	flights map[*decision]context.CancelFunc // look-ups under way
	stopped bool                             // there are no more

	saving sync.Mutex // held while the file of pulls is written
}

// errBefore stands for a decision of which only the status is known.
var errBefore = errors.New("decided before")

func newDecider(cfg Config, m *metrics) (*decider, error) {
	pulls, err := simplelru.NewLRU[pullKey, *decision](keptPulls, nil)
	if err != nil {
		return nil, fmt.Errorf("making room for pulls: %w", err)
	}
	return &decider{cfg: cfg, log: cfg.Logger, metrics: m, pulls: pulls, flights: make(map[*decision]context.CancelFunc)}, nil
}

// decide returns the decision on a pull, after looking the image up if this is the
// first layer of it. bottom says that the layer is the lowest one. A decision for an image
// that may not be used any more is made again.
func (d *decider) decide(ctx context.Context, pull Pull, bottom bool) (*decision, error) {
	made, err := d.current(ctx, pull, bottom)
	if err != nil || made.image == nil || d.cfg.Check == nil || d.cfg.Check(made.image.ID(), len(made.chain)) == nil {
		return made, err
	}
	d.drop(pullKey{pull.Image, pull.Manifest}, made)
	return d.current(ctx, pull, bottom)
}

// drop forgets a decision.
func (d *decider) drop(key pullKey, made *decision) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if known, ok := d.pulls.Peek(key); ok && known == made {
		d.pulls.Remove(key)
	}
}

// current returns the decision that holds, or makes one.
func (d *decider) current(ctx context.Context, pull Pull, bottom bool) (*decision, error) {
	key := pullKey{pull.Image, pull.Manifest}
	now := time.Now()
	d.mu.Lock()
	known, ok := d.pulls.Get(key)
	if ok && d.holds(known, now, bottom) {
		known.used = now
		d.mu.Unlock()
		select {
		case <-known.done:
			return known, known.err
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the look-up of %s: %w", pull.Image, context.Cause(ctx))
		}
	}
	made := &decision{done: make(chan struct{}), used: now}
	made.status = PullStatus{Image: pull.Image, Manifest: pull.Manifest, Started: now}
	// Others wait for the answer, whatever becomes of the one who asks.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if d.stopped {
		cancel()
	}
	d.flights[made] = cancel
	d.pulls.Add(key, made)
	d.mu.Unlock()
	d.settle(ctx, pull, made)
	d.land(key, made, ctx.Err() != nil)
	d.save(ctx)
	return made, made.err
}

// land ends a look-up, which was broken off or not.
func (d *decider) land(key pullKey, made *decision, broken bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer close(made.done)
	delete(d.flights, made)
	if broken {
		// That it was not looked up is no reason against lazy loading.
		d.pulls.Remove(key)
		made.image, made.err = nil, fmt.Errorf("looking up %s: %w: the snapshotter is stopping", key.image, errdefs.ErrUnavailable)
	}
}

// stop ends the look-ups under way. No others begin.
func (d *decider) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopped = true
	for _, cancel := range d.flights {
		cancel()
	}
}

// holds reports whether a decision still holds. One against lazy loading holds for the
// layers that follow, and for other pulls until it is time to look again.
func (d *decider) holds(known *decision, now time.Time, bottom bool) bool {
	select {
	case <-known.done:
	default:
		return true
	}
	if now.Sub(known.used) > pullIdle {
		return false
	}
	if known.err != nil {
		return false
	}
	return known.image != nil || !bottom || !known.again && now.Sub(known.status.Started) < d.cfg.RetryAfter
}

// lookAgain makes the next pulls of an image look it up, if it was found not to be lazy.
func (d *decider) lookAgain(manifest string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range d.pulls.Keys() {
		if known, ok := d.pulls.Peek(key); ok && key.manifest == manifest {
			known.again = true
		}
	}
}

// settle looks the image up.
func (d *decider) settle(ctx context.Context, pull Pull, made *decision) {
	image, err := d.find(ctx, pull)
	took := time.Since(made.status.Started)
	d.metrics.lookedUp(took)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		d.plain(ctx, made, reasonOf(err), err)
		return
	}
	made.image, made.chain = image, image.ChainIDs()
	d.mu.Lock()
	made.status.Lazy = true
	d.mu.Unlock()
	d.metrics.pulled(true, "")
	d.log.InfoContext(ctx, "layers are loaded when they are read", "image", pull.Image,
		"manifest", pull.Manifest, "layers", len(made.chain), "took", took)
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

// plain makes it known, once for each reason, that layers of an image are downloaded.
func (d *decider) plain(ctx context.Context, made *decision, reason Reason, err error) {
	d.mu.Lock()
	known := made.status.Reason == reason
	made.status.Reason, made.status.Detail = reason, err.Error()
	status := made.status
	d.mu.Unlock()
	if known {
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

// unknown makes it known that containerd does not say what it pulls.
func (d *decider) unknown(ctx context.Context, chainID string) {
	d.metrics.pulled(false, ReasonNoLabels)
	d.log.WarnContext(ctx, "layers are downloaded in full", "chain", chainID, "reason", string(ReasonNoLabels),
		"error", errors.New("containerd passes no image labels to snapshotters"))
}

// forget drops the decisions for images that are not among those kept. Of one that was
// found but does not fit its index, it remains known why it was pulled plainly. No
// look-up may be under way.
func (d *decider) forget(kept []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, key := range d.pulls.Keys() {
		known, ok := d.pulls.Peek(key)
		if !ok || known.image == nil || slices.Contains(kept, known.image.ID()) {
			continue
		}
		d.pulls.Remove(key)
		if known.status.Reason == ReasonMismatch {
			d.pulls.Add(key, &decision{done: known.done, err: errBefore, status: known.status, used: known.used})
		}
	}
}

// all returns what is known of pulls, the oldest first.
func (d *decider) all() []PullStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []PullStatus
	for _, known := range d.pulls.Values() {
		select {
		case <-known.done:
			all = append(all, known.status)
		default:
		}
	}
	return all
}
