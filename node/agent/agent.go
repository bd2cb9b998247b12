package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/brisk-project/brisk/image/registry/credential"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
)

const (
	// answerTimeout is how long requests may take to end once the agent is to stop.
	answerTimeout = 5 * time.Second
	// runMode keeps other users away from the directory of the socket.
	runMode = 0o711
)

// Config configures an [Agent].
type Config struct {
	// Node configures the data path. Snapshots are kept in its directory too.
	Node node.Config
	// Socket is the path that containerd finds the snapshotter under.
	Socket string
	// Listener, if set, is a socket that is there already, as one is that outlives the
	// process; then Socket is for logs only. The agent closes it.
	Listener net.Listener
	// LookupTimeout is how long a registry may keep a pull waiting before it is a plain
	// one; zero means 1 s. The time that an index takes to arrive at 2 MiB/s comes on top.
	LookupTimeout time.Duration
	// Mode says how images are loaded; empty means [ModeAuto].
	Mode Mode
	// WriteIndexes has the indexes of images that have none written when they have been
	// pulled, for the next pull. It needs Containerd.
	WriteIndexes bool
	// FetchTimeout and AsyncRemove are those of the snapshotter.
	FetchTimeout time.Duration
	AsyncRemove  bool
	// Idle and Now are those of the snapshotter. Pressure, if set, calls its argument whenever
	// the machine is short of memory, until ctx ends: idle mounts are given up then.
	Idle     snapshotter.IdleMounts
	Now      func() time.Time
	Pressure func(ctx context.Context, short func()) error
	// WatchTrust, if set, calls its argument whenever other signatures are trusted than before, until
	// ctx ends.
	WatchTrust func(ctx context.Context, changed func()) error
	// Containerd is the socket of containerd; empty leaves it out of what makes the
	// agent ready. MinFree is how many bytes of the disk have to be free for that.
	Containerd string
	MinFree    int64
	// Credentials are the names of where credentials come from, and Repositories, if set,
	// says which are in use, both for the status.
	Credentials  []string
	Repositories func() []credential.Status
}

// Agent is what runs on a node.
type Agent struct {
	cfg       Config
	log       *slog.Logger
	node      *node.Node
	snapshots *snapshotter.Snapshotter
	indexer   *indexer // nil if none are written
}

// New opens the directories of all parts. Nothing is served yet. An agent that is
// never run must be closed.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	if cfg.Node.Log == nil {
		cfg.Node.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.LookupTimeout == 0 {
		cfg.LookupTimeout = time.Second
	}
	a := &Agent{log: cfg.Node.Log}
	cfg.Node.ExtendAPI, cfg.Node.Images, cfg.Node.OnFalseIndex = a.extend, a.cachedImages, a.quarantine
	cfg.Node.OnEvict = a.evicting
	n, err := node.New(cfg.Node)
	if err != nil {
		return nil, err
	}
	known := images{node: n, patience: cfg.LookupTimeout, mode: cfg.Mode, trust: cfg.WatchTrust != nil, cacheBytes: cfg.Node.CacheBytes}
	onUnpacked := a.writeIndexes(ctx, cfg, n, &known)
	snapshots, err := snapshotter.New(ctx, snapshotter.Config{
		Root: filepath.Join(cfg.Node.Dir, "snapshotter"), Images: known, Restored: known.restored, Unpacked: onUnpacked, Check: known.check,
		LookupTimeout: cfg.LookupTimeout, FetchTimeout: cfg.FetchTimeout, AsyncRemove: cfg.AsyncRemove,
		Idle: cfg.Idle, Now: cfg.Now,
		Logger: cfg.Node.Log, Registerer: cfg.Node.Metrics,
	})
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	a.cfg, a.node, a.snapshots = cfg, n, snapshots
	return a, nil
}

// writeIndexes makes what writes indexes, if that is wanted, and returns what it has to be
// told of.
func (a *Agent) writeIndexes(ctx context.Context, cfg Config, n *node.Node, known *images) func(context.Context, snapshotter.Pull) {
	if !cfg.WriteIndexes || cfg.Containerd == "" || cfg.Mode == ModePlain {
		return nil
	}
	var err error
	if known.localIndexes, err = openLocalIndexes(filepath.Join(cfg.Node.Dir, "indexed.json"), n); err != nil {
		a.log.WarnContext(ctx, "the list of written indexes is lost", "error", err)
	}
	a.indexer = &indexer{
		containerd: cfg.Containerd, node: n, localIndexes: known.localIndexes, wanted: a.lacksIndex, done: a.lookAgain, log: a.log,
		queue: make(chan unpacked, indexQueue), limit: rate.NewLimiter(indexRate, indexBurst),
	}
	return a.indexer.unpacked
}

// quarantine hides from pulls what may not be used any more.
func (a *Agent) quarantine(ctx context.Context) {
	if err := a.snapshots.Quarantine(ctx); err != nil && ctx.Err() == nil {
		a.log.ErrorContext(ctx, "layers with a false or untrusted index can be found by pulls", "error", err)
	}
}

func (a *Agent) lookAgain(manifest string) { a.snapshots.RetryLookup(manifest) }

// lacksIndex reports whether a pull is plain because its image has no index that may be used.
func (a *Agent) lacksIndex(pull snapshotter.Pull) bool {
	for _, known := range a.snapshots.Pulls() {
		if known.Image == pull.Image && known.Manifest == pull.Manifest {
			return known.Reason == snapshotter.ReasonNoIndex || known.Reason == snapshotter.ReasonUntrusted
		}
	}
	return false
}

// Close closes an agent that is never run.
func (a *Agent) Close() error { return errors.Join(a.snapshots.Close(), a.node.Close()) }

// Snapshots returns the snapshotter, for its status.
func (a *Agent) Snapshots() *snapshotter.Snapshotter { return a.snapshots }

// Run serves containerd until ctx ends, then stops the parts, each before those it
// uses. It must be called once.
func (a *Agent) Run(ctx context.Context) (err error) {
	listener, err := a.listen(ctx)
	if err != nil {
		return errors.Join(err, a.Close())
	}
	lasting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	group.Go(func() error { return a.node.Run(lasting) })
	group.Go(func() error {
		defer stop()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		// Without its data path the agent is of no use.
		defer context.AfterFunc(lasting, cancel)()
		var inner errgroup.Group
		a.quarantine(ctx) // the process before may have ended before it could
		inner.Go(func() error { return a.snapshots.Run(ctx) })
		if a.indexer != nil {
			inner.Go(func() error { a.indexer.run(ctx); return nil })
		}
		if a.cfg.Pressure != nil && a.cfg.Idle.Max > 0 {
			inner.Go(func() error { a.watchMemory(ctx); return nil })
		}
		if a.cfg.WatchTrust != nil {
			inner.Go(func() error { return a.cfg.WatchTrust(ctx, func() { a.quarantine(ctx) }) })
		}
		inner.Go(func() error { defer cancel(); return a.serve(ctx, listener) })
		return errors.Join(inner.Wait(), a.snapshots.Close())
	})
	return group.Wait()
}

// evicting gives idle mounts up when the cache has to evict: it can evict nothing of the layers
// that a mount reads as plain files.
func (a *Agent) evicting() {
	if a.snapshots != nil { // else nothing is mounted yet
		a.snapshots.ReleaseIdleMounts(snapshotter.FullCache)
	}
}

// watchMemory gives idle mounts up while memory is short. An agent works without that.
func (a *Agent) watchMemory(ctx context.Context) {
	if err := a.cfg.Pressure(ctx, func() { a.snapshots.ReleaseIdleMounts(snapshotter.MemoryPressure) }); err != nil && ctx.Err() == nil {
		a.log.WarnContext(ctx, "idle mounts are not given up when memory is short", "error", err)
	}
}

// listen makes the socket. The directory of the node is locked, so a socket of that name
// is one of an agent that died.
func (a *Agent) listen(ctx context.Context) (net.Listener, error) {
	if a.cfg.Listener != nil {
		return a.cfg.Listener, nil
	}
	if err := os.MkdirAll(filepath.Dir(a.cfg.Socket), runMode); err != nil {
		return nil, fmt.Errorf("making the directory of the socket: %w", err)
	}
	if err := os.Remove(a.cfg.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing stale socket: %w", err)
	}
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "unix", a.cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("listening for containerd: %w", err)
	}
	if err := os.Chmod(a.cfg.Socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for containerd: %w", err), listener.Close())
	}
	return listener, nil
}

// serve answers containerd until ctx ends.
func (a *Agent) serve(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(grpc.WaitForHandlers(true))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(a.snapshots))
	stopped := make(chan struct{})
	ending := context.AfterFunc(ctx, func() {
		defer close(stopped)
		timer := time.AfterFunc(answerTimeout, server.Stop)
		defer timer.Stop()
		server.GracefulStop()
	})
	a.log.InfoContext(ctx, "serving containerd", "socket", a.cfg.Socket)
	err := server.Serve(listener)
	if ending() {
		server.Stop()
		return fmt.Errorf("serving containerd: %w", err)
	}
	<-stopped
	return nil
}
