package scrub

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

const (
	// passShare is the share of a core that a pass takes at most, and urgentShare the one
	// for what somebody waits for: reading back a complete layer, and a pass on demand.
	passShare   = 0.01
	urgentShare = 0.10
	// observedCost is how many times the CPU time of a check an observed block takes in all:
	// it is hashed once to check it, and once by who proves the layer.
	observedCost = 2
	// spread is the part of the interval that a pass is spread over.
	spread = 0.9
	// longestPause bounds the time between two steps of a pass.
	longestPause = 10 * time.Minute
	// saveInterval is how often progress within a layer is saved.
	saveInterval = time.Minute
)

// Layer is a layer of the cache and the images that use it.
type Layer struct {
	// Images are the names of the images that it belongs to.
	Images []string
	// Release ends the use of the layer.
	Release func()
}

// Observer sees the bytes of a layer while it is read back from its first block on.
type Observer interface {
	// Write is given the next block. It must not keep it.
	Write(data []byte)
	// Close says whether all blocks of the layer have been written.
	Close(whole bool)
}

// Config configures [New].
type Config struct {
	// Disk is the cache. Its OnComplete and OnCorrupt are to call [Scrubber.Complete] and
	// [Scrubber.Report].
	Disk *cache.Disk
	// Source delivers blocks that Disk does not have, verified, and puts them into it.
	Source block.Source
	// Open makes the block digests of a layer known to Disk and its origin to Source until
	// Release. An error wrapping [block.ErrNotFound] says that no image has the layer.
	Open func(ctx context.Context, layer block.Digest) (Layer, error)
	// DropPages, if set, makes the kernel forget what its page caches have of a block that
	// was found wrong. It is called before the block is fetched, and again with the right
	// bytes, which it must not keep, once the disk has them. It then reports whether programs
	// still see other bytes, as they do in pages that they have mapped: it is called
	// again until they do not.
	DropPages func(ctx context.Context, k block.Key, right []byte) (stale bool)
	// Observe, if set, returns who is to see a complete layer while it is read back, nil
	// for nobody.
	Observe func(ctx context.Context, layer block.Digest) Observer
	// Path is the file that keeps the state.
	Path string
	// Interval is the time in which everything is read once; 0 leaves passes out. Complete
	// layers are read back and wrong blocks are mended all the same.
	Interval time.Duration
	// Logger may be nil. Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Scrubber reads a cache and mends it. Create it with [New]. It is safe for concurrent use.
type Scrubber struct {
	cfg     Config
	metrics metrics
	wake    chan struct{} // holds a token when Run has something to do

	mu       sync.Mutex // guards the fields below
	state    state
	complete []block.Digest // layers to be read back
	repairs  map[block.Key]*repair
	stale    map[block.Key]*staleBlock
	forced   bool      // whether the pass is one on demand
	next     time.Time // when the next step of the pass is due
	saved    time.Time
	dirty    bool
}

// New returns a Scrubber that goes on where the one before it with the same Path was.
func New(cfg Config) (*Scrubber, error) {
	if cfg.Disk == nil || cfg.Source == nil || cfg.Open == nil || cfg.Path == "" {
		return nil, errors.New("scrubber needs a cache, a source, a way to open layers and a path")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Scrubber{cfg: cfg, wake: make(chan struct{}, 1), repairs: make(map[block.Key]*repair), stale: make(map[block.Key]*staleBlock)}
	kept, err := readState(cfg.Path)
	if err != nil {
		cfg.Logger.Warn("state of the scrubber is lost, the whole cache is read again", "error", err)
	}
	s.state = kept
	for _, k := range kept.Pending {
		s.repairs[block.Key{Layer: k.Layer, Index: k.Block}] = &repair{mapped: k.Mapped}
	}
	for _, k := range kept.Stale {
		s.stale[block.Key{Layer: k.Layer, Index: k.Block}] = &staleBlock{}
	}
	s.metrics = newMetrics(cfg.Registerer, s)
	return s, nil
}

// Run works until ctx ends, then saves the state. It is called once.
func (s *Scrubber) Run(ctx context.Context) error {
	for _, layer := range s.cfg.Disk.Layers() {
		if s.cfg.Disk.Complete(layer) && (s.cfg.Observe != nil || !s.cfg.Disk.Proven(layer)) {
			s.Complete(layer)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// The thread ends with the goroutine, and its priority with it.
		runtime.LockOSThread()
		if err := setIdleIO(); err != nil {
			s.cfg.Logger.WarnContext(ctx, "the cache is scrubbed at normal I/O priority", "error", err)
		}
		w := &worker{Scrubber: s, buf: cache.NewCheckBuffer()}
		for ctx.Err() == nil {
			w.step(ctx)
			s.saveSometimes(ctx)
		}
	}()
	<-done
	return s.save()
}

// Complete schedules a layer that has become complete to be read back. It does not block.
func (s *Scrubber) Complete(layer block.Digest) {
	s.mu.Lock()
	if !slices.Contains(s.complete, layer) {
		s.complete = append(s.complete, layer)
	}
	s.mu.Unlock()
	s.signal()
}

// Pause stops passes until Resume. Complete layers are still read back, and wrong blocks mended.
func (s *Scrubber) Pause() error { return s.change(func() { s.state.Paused = true }) }

// Resume ends a pause.
func (s *Scrubber) Resume() error { return s.change(func() { s.state.Paused = false }) }

// Start begins a pass over everything now, faster than usual, and ends a pause.
func (s *Scrubber) Start() error {
	return s.change(func() {
		s.state.Paused, s.forced, s.next = false, true, time.Time{}
		s.state.beginPass(time.Now())
	})
}

// Trust forgets the wrong blocks of the past, so that the disk is suspect no more.
func (s *Scrubber) Trust() error {
	return s.change(func() { s.state.Suspect, s.state.Bad = "", nil })
}

// change changes the state and saves it.
func (s *Scrubber) change(apply func()) error {
	s.mu.Lock()
	apply()
	s.mu.Unlock()
	s.signal()
	return s.save()
}

func (s *Scrubber) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Suspect returns why the disk is not to be relied on, empty if nothing speaks against it.
func (s *Scrubber) Suspect() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Suspect
}
