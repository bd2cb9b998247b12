package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
)

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// Snapshotter implements snapshots.Snapshotter and snapshots.Cleaner. Create it with
// [New]; while [Snapshotter.Run] runs it cleans up after itself. It is safe for
// concurrent use. Errors are those of github.com/containerd/errdefs.
type Snapshotter struct {
	cfg            Config
	log            *slog.Logger
	store          *storage.MetaStore
	overlayOptions []string
	decider        *decider
	mounts         *mountTable
	created        atomic.Uint64 // snapshots since the start

	gate    sync.RWMutex // held for writing while images are dropped, for reading where one is about to be used
	binding sync.Mutex   // held while mounts of adopted directories come and go

	wake chan struct{} // has something in it when there is work for Run
}

// Stat implements snapshots.Snapshotter.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.store.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update implements snapshots.Snapshotter. The labels of lazy and
// adopted snapshots stay as they are.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	err = s.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, before, _, err := storage.GetInfo(ctx, info.Name)
		if err != nil {
			return err
		}
		wanted := withoutOwn(info.Labels)
		for _, own := range ownLabels() {
			if value, ok := before.Labels[own]; ok {
				wanted[own] = value
			}
		}
		info.Labels = wanted
		updated, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return updated, err
}

// withoutOwn returns a copy of labels without those that only the snapshotter may set.
func withoutOwn(labels map[string]string) map[string]string {
	copied := make(map[string]string, len(labels))
	maps.Copy(copied, labels)
	for _, own := range ownLabels() {
		delete(copied, own)
	}
	return copied
}

// ownLabels are those that only the snapshotter may set.
func ownLabels() []string { return []string{LabelImage, LabelLayers, LabelAdopted, LabelWhole} }

// options returns what opts say, without the labels that only the snapshotter may set.
func options(opts []snapshots.Opt) (snapshots.Info, []snapshots.Opt, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return info, nil, err
		}
	}
	info.Labels = withoutOwn(info.Labels)
	clean := []snapshots.Opt{snapshots.WithLabels(info.Labels)}
	if info.Parent != "" {
		clean = append(clean, snapshots.WithParent(info.Parent))
	}
	return info, clean, nil
}

// Usage implements snapshots.Snapshotter. A lazy snapshot takes what has been loaded of
// its layer.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	var (
		id    string
		info  snapshots.Info
		usage snapshots.Usage
	)
	err := s.store.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		id, info, usage, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return snapshots.Usage{}, err
	}
	ref, lazy, err := refOf(id, info)
	switch {
	case err != nil:
		return snapshots.Usage{}, err
	case lazy:
		loaded, err := s.cfg.Images.Usage(ctx, ref.image, ref.layers-1)
		if err != nil {
			return snapshots.Usage{}, fmt.Errorf("asking what is loaded of snapshot %s: %w", key, err)
		}
		return snapshots.Usage{Size: loaded.Bytes, Inodes: loaded.Inodes}, nil
	case info.Kind == snapshots.KindActive:
		return s.diskUsage(ctx, id)
	}
	return usage, nil
}

func (s *Snapshotter) diskUsage(ctx context.Context, id string) (snapshots.Usage, error) {
	du, err := fs.DiskUsage(ctx, fsPath(s.cfg.Root, id))
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("measuring snapshot %s: %w", id, err)
	}
	return snapshots.Usage(du), nil
}

// Prepare implements snapshots.Snapshotter. Where a layer would be unpacked that can be
// loaded lazily, the error wraps errdefs.ErrAlreadyExists and there is a committed
// snapshot with the label containerd.io/snapshot.ref. With [LabelAdopt] the snapshot stands
// for a directory of another snapshotter, which has to stay as long as the snapshot does.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, clean, err := options(opts)
	if err != nil {
		return nil, err
	}
	adopted, err := adoptionOf(info.Labels)
	if err != nil {
		return nil, err
	}
	if adopted != nil {
		return s.prepareAdopted(ctx, key, parent, info.Labels, adopted)
	}
	if target := info.Labels[snapshots.LabelSnapshotRef]; target != "" {
		done, err := s.prepareLazy(ctx, key, parent, info)
		if err != nil {
			return nil, err
		}
		if done {
			return nil, fmt.Errorf("snapshot %s needs no unpacking: %w", target, errdefs.ErrAlreadyExists)
		}
	}
	return s.create(ctx, creation{kind: snapshots.KindActive, key: key, parent: parent, labels: info.Labels, opts: clean})
}

// View implements snapshots.Snapshotter.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	info, clean, err := options(opts)
	if err != nil {
		return nil, err
	}
	return s.create(ctx, creation{kind: snapshots.KindView, key: key, parent: parent, labels: info.Labels, opts: clean})
}

// Mounts implements snapshots.Snapshotter. It mounts the image below the snapshot if
// it is not mounted.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var (
		made   storage.Snapshot
		info   snapshots.Info
		lowers below
	)
	err := s.store.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		if made, err = storage.GetSnapshot(ctx, key); err != nil {
			return err
		}
		if _, info, _, err = storage.GetInfo(ctx, key); err != nil {
			return err
		}
		lowers, err = walkDown(ctx, info.Parent)
		return err
	})
	if err != nil {
		return nil, err
	}
	if dir, ok := info.Labels[LabelAdopted]; ok {
		return (&adoption{dir: dir}).mounts(), nil
	}
	if lowers.lazy != nil {
		if err := s.mounts.mount(ctx, s.mounts.use(*lowers.lazy, made.ID)); err != nil {
			return nil, unavailable(err)
		}
		// Somebody may have removed the snapshot meanwhile, and its use of the mount before.
		if _, err := s.Stat(ctx, key); err != nil {
			s.mounts.drop(ctx, made.ID)
			return nil, err
		}
	}
	if err := s.bind(info.Labels, lowers); err != nil {
		return nil, err
	}
	return s.mountsOf(made, info.Labels, lowers), nil
}

// unavailable marks an error as one that may pass.
func unavailable(err error) error {
	return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
}

// Commit implements snapshots.Snapshotter.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	given, clean, err := options(opts)
	if err != nil {
		return err
	}
	var (
		id   string
		info snapshots.Info
	)
	err = s.store.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		id, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	if err != nil {
		return err
	}
	// Measuring may take a while, and whoever writes to the database has to wait for others.
	usage, clean, err := s.measure(ctx, id, info, given, clean)
	if err != nil {
		return err
	}
	err = s.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		now, err := storage.CommitActive(ctx, key, name, usage, clean...)
		if err == nil && now != id {
			err = fmt.Errorf("%w: snapshot %s was replaced while it was measured", errdefs.ErrUnavailable, key)
		}
		return err
	})
	if err != nil {
		return err
	}
	s.mounts.drop(ctx, id)
	if pull := pullOf(info.Labels); s.cfg.Unpacked != nil && pull.Manifest != "" && pull.ChainID != "" {
		s.cfg.Unpacked(ctx, pull)
	}
	return nil
}

// measure returns what a snapshot takes that is about to be committed, and the options to
// do it with: an adopted one stays one, and what it takes is known.
func (s *Snapshotter) measure(
	ctx context.Context, id string, before, given snapshots.Info, clean []snapshots.Opt,
) (snapshots.Usage, []snapshots.Opt, error) {
	if _, ok := before.Labels[LabelAdopted]; !ok {
		usage, err := s.diskUsage(ctx, id)
		return usage, clean, err
	}
	adopted, err := adoptionOf(before.Labels)
	if err != nil {
		return snapshots.Usage{}, nil, err
	}
	marked := adopted.labels()
	maps.Copy(marked, given.Labels)
	return adopted.usage, append(slices.Clone(clean), snapshots.WithLabels(marked)), nil
}

// Remove implements snapshots.Snapshotter.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	var (
		id   string
		lazy bool
	)
	err := s.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, info, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		_, lazy = info.Labels[LabelImage]
		id, _, err = storage.Remove(ctx, key)
		return err
	})
	if err != nil {
		return err
	}
	s.mounts.drop(ctx, id)
	if !s.cfg.AsyncRemove {
		if err := s.removeDir(id); err != nil {
			s.log.WarnContext(ctx, "files of a removed snapshot are left to the next clean-up", "snapshot", key, "error", err)
		}
	}
	if lazy {
		s.nudge()
	}
	return nil
}

// Walk implements snapshots.Snapshotter.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	err := s.store.WithTransaction(ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, fn, filters...)
	})
	return err
}

// Pulls returns the results of the last pulls, at most 512.
func (s *Snapshotter) Pulls() []PullStatus { return s.decider.all() }

// RetryLookup forgets the look-up of an image, given by the digest of its manifest, because it has
// an index now. Its next pull looks for the index again.
func (s *Snapshotter) RetryLookup(manifest string) { s.decider.lookAgain(manifest) }

// Close implements snapshots.Snapshotter. It may be called more than once. Mounts stay.
func (s *Snapshotter) Close() error {
	if err := s.store.Close(); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
		return fmt.Errorf("closing the database of snapshots: %w", err)
	}
	return nil
}
