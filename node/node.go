package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/lazyfs/scrub"
	"github.com/brisk-project/brisk/node/waterfall"
	"github.com/brisk-project/brisk/p2p"
)

const (
	dirMode = 0o700
	// peerReadTimeout is how long a read that a program waits for may be held up
	// by peers before it goes to the registry.
	peerReadTimeout = time.Second
	// pinInterval is how often it is seen to what was unpinned while it was in use.
	pinInterval = 30 * time.Second
)

// Config configures a [Node].
type Config struct {
	// Dir holds everything the node keeps. One process uses it at a time. It must
	// not lie on an overlay filesystem.
	Dir string
	// CacheBytes bounds the disk cache, MemoryBytes the memory cache.
	CacheBytes  int64
	MemoryBytes int64
	// CacheFiles, CacheHighWater, CacheLowWater and CacheMinFree are the other bounds of
	// the disk cache, as [cache.DiskConfig] has them; zero means its defaults.
	CacheFiles                    int64
	CacheHighWater, CacheLowWater float64
	CacheMinFree                  int64
	// ScrubInterval is the time in which the disk cache is read and hashed once; 0 leaves
	// that out. Images, if set, returns the images that may have layers in the cache besides
	// those that are mounted.
	ScrubInterval time.Duration
	Images        func(context.Context) ([]*Image, error)
	// Backend forces a mount backend; empty takes the best that works.
	Backend lazyfs.Backend
	// ReadTimeout is how long a read may wait before it fails with EIO.
	ReadTimeout time.Duration
	// Keeper keeps mounts for the next process; without one they end with this one,
	// but for those that need no process.
	Keeper keeper.Store
	// Registry is the client all images are found with.
	Registry *registry.Client
	// Listen are the addresses to serve peers on; none leaves peers out.
	Listen []string
	// Peers are the other members of the cluster. Members, if set, says that instead.
	Peers   []p2p.Peer
	Members p2p.Members
	// OnEvict, if set, is called when the disk cache has to evict. It must not wait.
	OnEvict func()
	// OnFalseIndex, if set, is called when indexes have been found to be false. It must not
	// call the node back and wait.
	OnFalseIndex func(ctx context.Context)
	// StartRecorder, if set, records the starts of images. The registry client is to tell it of its
	// requests.
	StartRecorder *waterfall.Recorder
	// ExtendAPI, if set, adds to what the node answers on the socket in its directory.
	ExtendAPI func(mux *http.ServeMux)
	// BundleReadAhead is PagesReadAhead of [lazyfs.Config].
	BundleReadAhead int
	// StartDuration is how long after its first read a start is over; zero means 30 s. ExactReads
	// is that of [lazyfs.Config]. Both are for nodes that only record.
	StartDuration time.Duration
	ExactReads    bool
	// Log may be nil. Metrics may be nil: then there are none.
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Node is the data path of one node. It works while Run runs and is safe for
// concurrent use.
type Node struct {
	cfg             Config
	log             *slog.Logger
	layerIndexes    *layerIndexes
	disk            *cache.Disk
	scrubber        *scrub.Scrubber
	mergedTrees     mergedTrees
	proofs          *proofs
	objects         *cache.Objects
	registry        *registry.Source
	peers           *p2p.Node // nil without peers
	fs              *lazyfs.FS
	trafficCounters *trafficCounters
	startupTraces   *startupTraces
	traceRecorders  *traceRecorders
	peerTraces      peerTraces
	foundTraces     foundTraces
	bundles         bundles
	delays          delays

	proofMetrics *proofMetrics // nil without metrics
	// How fast blocks come from where.
	peerRate, registryRate rate

	settled  chan struct{} // closed when it is known which mounts go on
	idle     chan struct{} // closed when the last mount has gone
	idleOnce sync.Once

	// keeping is held for writing while what no image needs is dropped, and for
	// reading while something is about to be needed.
	keeping sync.RWMutex

	preparations sync.WaitGroup // that have begun and not ended

	mu        sync.Mutex // guards what follows
	mounts    map[*Mount]struct{}
	preparing map[*preparation]struct{}
	fetched   []fetched // within newlyFetched
	reopened  []*Mount  // those of a process before this one, until it is known which are there
}

// New opens the node's directory and joins the parts. It serves nothing yet.
// A node that is never run must be closed.
func New(cfg Config) (_ *Node, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{cfg: cfg, log: cfg.Log, layerIndexes: newLayerIndexes(), mounts: make(map[*Mount]struct{}), preparing: make(map[*preparation]struct{}), idle: make(chan struct{}), settled: make(chan struct{})}
	if err := os.MkdirAll(cfg.Dir, dirMode); err != nil {
		return nil, fmt.Errorf("making the node's directory: %w", err)
	}
	if n.objects, err = cache.OpenObjects(filepath.Join(cfg.Dir, "objects")); err != nil {
		return nil, err
	}
	n.disk, err = cache.OpenDisk(cache.DiskConfig{
		Dir: cacheDir(cfg.Dir), Layout: n.layerIndexes, Logger: cfg.Log, Registerer: cfg.Metrics,
		MaxBytes: cfg.CacheBytes, MaxFiles: cfg.CacheFiles, MinFree: cfg.CacheMinFree,
		EvictReserved: n.bundles.shed, HighWater: cfg.CacheHighWater, LowWater: cfg.CacheLowWater,
		OnCorrupt: n.onCorrupt, OnComplete: n.onComplete, OnEvict: cfg.OnEvict,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.disk.Close())
		}
	}()
	if err := n.openBundles(); err != nil {
		return nil, err
	}
	if n.registry, err = registry.NewSource(cfg.Registry, registry.SourceConfig{
		Cache: streamCache{n}, Parts: indexParts{n}, Streamed: n.noteStreamed, Registerer: cfg.Metrics,
	}); err != nil {
		return nil, err
	}
	if n.startupTraces, err = openStartupTraces(filepath.Join(cfg.Dir, "traces"), cfg, n.disk); err != nil {
		return nil, err
	}
	n.traceRecorders = newTraceRecorders(n.startupTraces.addTrace, cfg.StartDuration)
	memory, err := cache.NewMemory(cache.MemoryConfig{MaxBytes: cfg.MemoryBytes, Registerer: cfg.Metrics})
	if err != nil {
		return nil, err
	}
	held := source.Chain(source.Tier{Name: "memory", Source: memory}, source.Tier{Name: "disk", Source: &lentDisk{node: n, open: make(map[block.Digest]struct{})}})
	if err := n.joinPeers(held); err != nil {
		return nil, err
	}
	if n.trafficCounters, err = newTrafficCounters(); err != nil {
		return nil, err
	}
	if err := n.openProofs(); err != nil {
		return nil, err
	}
	if err := n.openFoundTraces(); err != nil {
		return nil, err
	}
	upstream := n.upstream(memory)
	if err := n.newScrubber(upstream); err != nil {
		return nil, err
	}
	// What peers are given is not counted: it is read for them.
	blocks := source.Chain(
		source.Tier{Name: "memory", Source: n.trafficCounters.count(memory, fromMemory)},
		source.Tier{Name: "disk", Source: n.trafficCounters.count(n.disk, fromDisk)},
		source.Tier{Name: "upstream", Source: upstream})
	n.fs, err = lazyfs.New(lazyfs.Config{
		StateDir: filepath.Join(cfg.Dir, stateName), Source: timed{blocks, n.trafficCounters, &n.delays}, Local: countedDisk{n.disk, n.trafficCounters}, Backend: cfg.Backend,
		Pages: n.pages, PagesReadAhead: cfg.BundleReadAhead, ExpandToFrames: n.along, OnRead: n.traceRecorders.note, Streaming: n.registry.Streaming,
		OnReadDone: n.noteReadDone, OnMetadata: n.noteMetadata,
		ReadTimeout: cfg.ReadTimeout, ExactReads: cfg.ExactReads, Logger: cfg.Log, Registerer: cfg.Metrics,
		Keeper: cfg.Keeper, Reopen: n.reopen,
	})
	return n, err
}

// joinPeers makes the peer node, which serves what this node holds.
func (n *Node) joinPeers(held block.Source) error {
	if len(n.cfg.Listen) == 0 {
		return nil
	}
	key, err := p2p.LoadOrCreateKey(filepath.Join(n.cfg.Dir, PeerKeyFile))
	if err != nil {
		return err
	}
	members := n.cfg.Members
	if members == nil {
		members = p2p.NewList(n.cfg.Peers...)
	}
	n.peers, err = p2p.New(p2p.Config{
		Key: key, Listen: n.cfg.Listen, Members: members, Layout: n.layerIndexes,
		Local: held, Objects: newSharedObjects(n.objects, n.cfg.Log), Hints: n, Log: n.cfg.Log, Metrics: n.cfg.Metrics,
	})
	if err == nil {
		n.peerTraces = peerTraces{peers: n.peers, answers: make(map[block.Digest]*peerTrace)}
	}
	return err
}

// PeerKeyFile is the name of the file in a node's directory that holds its
// identity among peers.
const PeerKeyFile = "peer.key"

// upstream joins what lies behind the caches. What it delivers is verified and
// has been put into the disk cache, or into memory if that does not take it.
//
// Reads of the registry are shared by frame: who wants another block of a frame
// that is on its way joins. A reader is not held up by that, for the outer flight
// passes each block on at once. Peers are asked for just the blocks wanted.
func (n *Node) upstream(memory block.Store) block.Source {
	cfg := n.cfg
	verified := source.Verify(source.NewPriority(n.registry, source.PriorityConfig{}), n.layerIndexes,
		source.VerifyConfig{Name: "registry", Registerer: cfg.Metrics})
	far := source.Retry(n.registryRate.measure(n.trafficCounters.count(n.recorded(verified, waterfall.Registry), fromRegistry)),
		source.RetryConfig{Name: "registry", Registerer: cfg.Metrics})
	far = source.NewSingleFlight(far, source.SingleFlightConfig{
		Name: "registry", Registerer: cfg.Metrics,
		ExpandToFrames: n.along,
	})
	if n.peers != nil {
		far = source.Chain(
			source.Tier{Name: "peer", Source: n.peerRate.measure(n.trafficCounters.count(n.recorded(n.peers.Source(), waterfall.Peers), fromPeers)), ReadTimeout: peerReadTimeout},
			source.Tier{Name: "registry", Source: far})
	}
	// What is on the disk is in the page cache as well: the memory cache is for what the disk does not take.
	kept := source.ReadThrough(n.disk, compared{far, n}, source.ReadThroughConfig{Name: "disk", FallbackStore: memory, Logger: cfg.Log, Registerer: cfg.Metrics})
	return source.NewSingleFlight(kept, source.SingleFlightConfig{Name: "node", Registerer: cfg.Metrics})
}

// along returns a range with what the registry sends along and is not held yet.
func (n *Node) along(r block.Range) block.Range { return n.layerIndexes.along(r, n.disk.Has) }

// Run makes the node work until ctx ends, then unmounts what does not outlive the
// process and closes the cache. It must be called once.
func (n *Node) Run(ctx context.Context) error {
	// Peers and cache outlive the mounts, which may still read while they end.
	lasting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	group.Go(func() error {
		defer stop()
		running, cancel := context.WithCancel(ctx)
		defer cancel()
		var inner errgroup.Group
		inner.Go(func() error { defer cancel(); return n.fs.Run(running) })
		inner.Go(func() error { n.dropStalePins(running); return nil })
		inner.Go(func() error { return n.scrubber.Run(running) })
		inner.Go(func() error { defer cancel(); return n.serve(running) })
		return inner.Wait()
	})
	group.Go(func() error { return n.disk.Run(lasting) })
	if n.peers != nil {
		group.Go(func() error { return n.peers.Run(lasting) })
	}
	err := group.Wait()
	n.closeBundles()
	n.preparations.Wait() // they end with fs
	n.peerTraces.asking.Wait()
	n.registry.Close()
	// Mounts still hold their indexes.
	return errors.Join(err, n.leave(lasting), n.bundles.store.Close(), n.disk.Close())
}

// dropStalePins lets the cache evict what nobody has mounted any more: of the process
// before this one, once mounts can be made, for then its own have been taken over or
// cleaned up; and of mounts that were detached while they were in use.
func (n *Node) dropStalePins(ctx context.Context) {
	select {
	case <-n.fs.Ready():
		n.takeOver()
		close(n.settled)
	case <-ctx.Done():
		return
	}
	ticker := time.NewTicker(pinInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		n.disk.DropStalePins()
		n.tidyBundles(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// Close closes a node that is never run.
func (n *Node) Close() error { return errors.Join(n.bundles.store.Close(), n.disk.Close()) }

// Ready is closed when images can be mounted: what a process before has left has been
// cleaned up, and the backend is known.
func (n *Node) Ready() <-chan struct{} { return n.fs.Ready() }

// Idle is closed when the last mount has been unmounted.
func (n *Node) Idle() <-chan struct{} { return n.idle }

// Status returns the status of the node.
func (n *Node) Status() Status {
	status := Status{Backend: string(n.fs.Backend()), Bytes: SourceBytes{Registry: n.registry.Stats().Bytes, Bundles: n.bundles.fetched.Load()}, Mounts: []MountStatus{}, Scrub: n.scrubber.Status()}
	if n.peers != nil {
		status.PeerID, status.Bytes.Peers = n.peers.ID(), int64(n.peers.Stats().ReceivedBytes())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for m := range n.mounts {
		status.Mounts = append(status.Mounts, m.Status())
	}
	return status
}
