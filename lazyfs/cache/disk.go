package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
)

// DiskConfig configures [OpenDisk].
type DiskConfig struct {
	// Dir is the directory of the cache. It is made if it does not exist. Required.
	Dir string
	// Layout knows the lengths and digests of the blocks to be cached. It may learn
	// layers while the cache is open, and is called concurrently. Required.
	Layout block.Layout
	// MaxBytes bounds the bytes of all blocks, 0 for no bound. The directory takes
	// a little more: a few bytes a block for presence records.
	MaxBytes int64
	// MaxFiles bounds the inodes of all layers, [LayerFiles] each, 0 for no bound.
	// Above it the layers used least recently go as a whole.
	MaxFiles int64
	// HighWater and LowWater are shares of both bounds: above the first Run evicts
	// down to the second, so that writers seldom have to wait for it. Zero means 0.97
	// and 0.92.
	HighWater, LowWater float64
	// MinFree is how many bytes of the filesystem have to be free, whoever takes the
	// others: below that Run evicts, and nothing more is cached.
	MinFree int64
	// EvictReserved, if set, deletes data of others that counts towards the size of the cache (see
	// [Disk.Reserve]) and was not used for the time idle: about n bytes, if there are so many. It
	// returns the number of released bytes.
	EvictReserved func(n int64, idle time.Duration) int64
	// CommitInterval is how long Run lets written blocks wait to be made durable:
	// what a crash costs at most. Default 2 s.
	CommitInterval time.Duration
	// CommitBytes is how many bytes of written blocks Run lets wait at most.
	// Default 256 MiB.
	CommitBytes int64
	// OnEvict, if set, is called when blocks or layers have to go to make room: whoever pins
	// layers for later should let go of them. It must not wait.
	OnEvict func()
	// OnComplete, if set, is called with each layer whose last missing block has been
	// written. OnCorrupt, if set, is called with each block that was found wrong and
	// taken out of the cache. Neither may wait or call the cache.
	OnComplete func(layer block.Digest)
	OnCorrupt  func(CorruptBlock)
	// Logger is told of damage and repairs, nil for nobody.
	Logger *slog.Logger
	// Registerer takes the metrics, nil for none.
	Registerer prometheus.Registerer
}

// Disk keeps blocks in sparse files, one for each layer stream. It implements
// [block.Store] and [block.Holder]. Open it with [OpenDisk].
type Disk struct {
	cfg     DiskConfig
	lock    *os.File
	kept    recency   // of the process before, until the layers have been loaded
	buffers sync.Pool // of *[block.Size]byte
	metrics diskMetrics
	hook    func(point string) // called at points where a crash is most interesting

	bytes     atomic.Int64  // of blocks present or being written
	unflushed atomic.Int64  // bytes written since the last commit
	tick      atomic.Uint64 // counts uses
	wake      chan struct{} // holds a token when Run has something to do
	fresh     fresh

	evictMu sync.Mutex // serialises evictions; taken before any other lock

	mu     sync.RWMutex // guards what follows
	layers map[block.Digest]*layer
	sets   map[string][]block.Range // pinned by name
	closed bool
}

const (
	versionText = "brisk cache 1\n"
	// LayerFiles is how many inodes a layer takes at most: its directory, data,
	// presence record and pin.
	LayerFiles = 4

	defaultHighWater = 0.97
	defaultLowWater  = 0.92
	// recencyInterval is how often Run keeps for a crash what was used when.
	recencyInterval = 5 * time.Minute
)

// errClosed is the error of a cache that has been closed.
var errClosed = errors.New("cache is closed")

// OpenDisk opens the cache in a directory and takes its lock. After a stop that was
// not clean the blocks of before are verified as they are used. What of the
// directory is damaged counts as absent and is logged.
func OpenDisk(cfg DiskConfig) (*Disk, error) {
	if cfg.Dir == "" || cfg.Layout == nil {
		return nil, errors.New("disk cache needs a directory and a layout")
	}
	if cfg.HighWater == 0 {
		cfg.HighWater = defaultHighWater
	}
	if cfg.LowWater == 0 {
		cfg.LowWater = min(defaultLowWater, cfg.HighWater)
	}
	if cfg.LowWater < 0 || cfg.LowWater > cfg.HighWater || cfg.HighWater > 1 {
		return nil, fmt.Errorf("disk cache needs water marks that rise from 0 to 1, not %g and %g", cfg.LowWater, cfg.HighWater)
	}
	if cfg.CommitInterval <= 0 {
		cfg.CommitInterval = 2 * time.Second
	}
	if cfg.CommitBytes <= 0 {
		cfg.CommitBytes = 256 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnEvict == nil {
		cfg.OnEvict = func() {}
	}
	if cfg.OnComplete == nil {
		cfg.OnComplete = func(block.Digest) {}
	}
	if cfg.OnCorrupt == nil {
		cfg.OnCorrupt = func(CorruptBlock) {}
	}
	d := &Disk{
		cfg:     cfg,
		buffers: sync.Pool{New: func() any { return new([block.Size]byte) }},
		hook:    func(string) {},
		wake:    make(chan struct{}, 1),
		layers:  make(map[block.Digest]*layer),
		sets:    make(map[string][]block.Range),
	}
	d.metrics = newDiskMetrics(cfg.Registerer, d)
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("opening disk cache %s: %w", cfg.Dir, err)
	}
	return d, nil
}

// Run commits written blocks and evicts ahead of need until ctx ends. It then
// commits once more and returns nil; Close is still to be called. It is called
// once.
func (d *Disk) Run(ctx context.Context) error {
	ticker := time.NewTicker(d.cfg.CommitInterval)
	defer ticker.Stop()
	remember := time.NewTicker(recencyInterval)
	defer remember.Stop()
	for {
		select {
		case <-ctx.Done():
			return d.Commit()
		case <-ticker.C:
			d.commitOrLog(ctx)
			d.releaseOld(time.Now())
			d.evictAhead()
		case <-remember.C:
			d.saveRecency()
		case <-d.wake:
			d.evictAhead()
			if d.unflushed.Load() > d.cfg.CommitBytes {
				d.commitOrLog(ctx)
			}
		}
	}
}

func (d *Disk) commitOrLog(ctx context.Context) {
	if err := d.Commit(); err != nil {
		d.cfg.Logger.ErrorContext(ctx, "blocks not committed, a restart will fetch them again", "error", err)
	}
}

// Commit makes the blocks that are in the cache now survive a restart.
func (d *Disk) Commit() error {
	d.unflushed.Store(0)
	var errs []error
	for _, l := range d.all() {
		if err := l.commit(d.hook); err != nil {
			errs = append(errs, fmt.Errorf("committing layer %s: %w", l.id.Short(), err))
		}
	}
	return errors.Join(errs...)
}

// Close commits, marks the directory as cleanly left, and gives back its lock. The
// cache must not be used any more, nor Run be running.
func (d *Disk) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	err := d.Commit()
	d.saveRecency()
	if err == nil {
		err = statefile.WriteDurable(d.cleanPath(), d.cleanContent())
	}
	return errors.Join(err, d.release())
}

// release closes all files.
func (d *Disk) release() error {
	var errs []error
	for _, l := range d.all() {
		errs = append(errs, l.data.Close())
	}
	return errors.Join(append(errs, d.lock.Close())...)
}

func (d *Disk) cleanPath() string { return filepath.Join(d.cfg.Dir, "clean") }

func (d *Disk) layerDir(id block.Digest) string {
	return layerDir(d.cfg.Dir, id)
}

// lookup returns the layer, nil if the cache knows nothing of it.
func (d *Disk) lookup(id block.Digest) *layer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.layers[id]
}

// all returns all layers.
func (d *Disk) all() []*layer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	out := make([]*layer, 0, len(d.layers))
	for _, l := range d.layers {
		out = append(out, l)
	}
	return out
}

func (d *Disk) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *Disk) buffer() *[block.Size]byte {
	buf, ok := d.buffers.Get().(*[block.Size]byte)
	if !ok {
		return new([block.Size]byte)
	}
	return buf
}

// Dir returns the directory of the cache.
func (d *Disk) Dir() string { return d.cfg.Dir }
