package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
)

const (
	// rootMode keeps other users away from all snapshots.
	rootMode = 0o700
	// lockTimeout is how long another process may go on using the root directory.
	lockTimeout = 10 * time.Second

	defaultLookupTimeout = time.Second
	defaultFetchTimeout  = 20 * time.Second
	defaultRetryAfter    = 30 * time.Second
)

// Config configures a [Snapshotter].
type Config struct {
	// Root is an absolute path of the directory for all snapshots. It is made if it does
	// not exist, and must be on a filesystem that overlayfs can write to.
	Root string
	// Images are the images that have an index.
	Images Images
	// Restored returns the mounts that a process before this one has made with
	// Images.Mount and that still work, by directory. Run calls it once, and nothing is
	// mounted before it has returned. nil stands for none.
	Restored func(ctx context.Context) (map[string]Mounted, error)
	// Check, if set, returns why no new snapshot may stand on the first layers of an image,
	// nil if it may. Snapshots that are there go on. It is called often and must not wait.
	Check func(id string, layers int) error
	// Unpacked, if set, is told of each layer that was downloaded and unpacked, with the
	// context of containerd's request. It must not block.
	Unpacked func(ctx context.Context, pull Pull)
	// LookupTimeout is how long a pull may wait for the answer whether an image has an
	// index; zero means 1 s.
	LookupTimeout time.Duration
	// FetchTimeout is how long a pull may wait for the index of an image that has one;
	// zero means 20 s.
	FetchTimeout time.Duration
	// RetryAfter is how long an image that has no index is not looked up again; zero
	// means 30 s.
	RetryAfter time.Duration
	// Idle bounds the mounts that are kept when no snapshot uses them any more. The zero value
	// keeps none.
	Idle IdleMounts
	// Now is the clock of idle mounts; nil means [time.Now].
	Now func() time.Time
	// AsyncRemove leaves the files of removed snapshots to the next Cleanup, be it
	// containerd's or one of Run.
	AsyncRemove bool
	// Logger may be nil.
	Logger *slog.Logger
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
}

// New opens the root directory and reads what it holds. It mounts nothing. The context
// is in force until it returns.
func New(ctx context.Context, cfg Config) (*Snapshotter, error) {
	switch {
	case !filepath.IsAbs(cfg.Root):
		return nil, fmt.Errorf("configuring the snapshotter: root %q is not an absolute path", cfg.Root)
	case strings.ContainsAny(cfg.Root, ",:\\"):
		return nil, fmt.Errorf("configuring the snapshotter: root %q contains a character with a special meaning in mount options", cfg.Root)
	case cfg.Images == nil:
		return nil, errors.New("configuring the snapshotter: no images")
	}
	cfg.LookupTimeout = orDefault(cfg.LookupTimeout, defaultLookupTimeout)
	cfg.FetchTimeout = orDefault(cfg.FetchTimeout, defaultFetchTimeout)
	cfg.RetryAfter = orDefault(cfg.RetryAfter, defaultRetryAfter)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	metrics, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Snapshotter{cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1)}
	s.mounts = newMountTable(cfg, metrics, s.nudge)
	if s.decider, err = newDecider(cfg, metrics); err != nil {
		return nil, err
	}
	s.decider.load(ctx)
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("opening snapshots in %s: %w", cfg.Root, err)
	}
	return s, nil
}

func orDefault(given, usual time.Duration) time.Duration {
	if given == 0 {
		return usual
	}
	return given
}

// open opens the database and finds out what overlayfs needs here.
func (s *Snapshotter) open(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(s.cfg.Root, "snapshots"), rootMode); err != nil {
		return err
	}
	if err := overlayutils.Supported(s.cfg.Root); err != nil {
		return err
	}
	userxattr, err := overlayutils.NeedsUserXAttr(s.cfg.Root)
	if err != nil {
		return fmt.Errorf("finding out which extended attributes overlayfs can use: %w", err)
	}
	if userxattr {
		s.overlayOptions = append(s.overlayOptions, "userxattr")
	}
	// Lower directories are shared by many overlays, which the index does not allow.
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		s.overlayOptions = append(s.overlayOptions, "index=off")
	}
	s.store, err = storage.NewMetaStore(filepath.Join(s.cfg.Root, "metadata.db"), func(o *bbolt.Options) error {
		o.Timeout = lockTimeout
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.restore(ctx); err != nil {
		return errors.Join(err, s.store.Close())
	}
	return nil
}
