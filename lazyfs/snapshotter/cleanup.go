package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// doomedPrefix begins the names of directories that are being removed.
const doomedPrefix = "removed-"

// tidyInterval is how long what could not be cleaned up is left alone.
const tidyInterval = 2 * time.Second

// Run cleans up until ctx ends: what a process before left, mounts that nobody uses and that
// are not to be kept, images without snapshots. It must be called once. Pulls that
// wait for a look-up when it ends fail.
func (s *Snapshotter) Run(ctx context.Context) error {
	s.adopt(ctx)
	if err := s.Cleanup(ctx); err != nil {
		s.log.WarnContext(ctx, "files of removed snapshots are left to the next clean-up", "error", err)
	}
	s.nudge()
	timer := time.NewTimer(tidyInterval)
	defer timer.Stop()
	defer s.decider.stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		timer.Stop()
		if next := s.tidy(ctx); next > 0 {
			timer.Reset(next)
		}
	}
}

func (s *Snapshotter) adopt(ctx context.Context) {
	var restored map[string]Mounted
	if s.cfg.Restored != nil {
		var err error
		if restored, err = s.cfg.Restored(ctx); err != nil {
			s.log.WarnContext(ctx, "mounts of the previous process are lost", "error", err)
		}
	}
	refs := make(map[string]lazyRef)
	err := s.walk(ctx, func(_ context.Context, id string, info snapshots.Info) error {
		if ref, lazy, err := refOf(id, info); err == nil && lazy {
			refs[id] = ref
		}
		return nil
	})
	if err != nil {
		s.log.WarnContext(ctx, "images of mounts of the previous process are unknown", "error", err)
	}
	s.mounts.adopt(restored, refs)
}

// IdleMounts returns the mounts that no snapshot uses, the most recently used first.
func (s *Snapshotter) IdleMounts() []IdleStatus { return s.mounts.status() }

// ReleaseIdleMounts marks half of the idle mounts, at least one if there is any, to be unmounted by Run,
// because a resource is short.
func (s *Snapshotter) ReleaseIdleMounts(of Shortage) {
	if s.mounts.relieve(of) {
		s.nudge()
	}
}

// nudge wakes Run.
func (s *Snapshotter) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tidy does what Run is there for. It returns after what time there is more to do, zero if
// there is nothing.
func (s *Snapshotter) tidy(ctx context.Context) (next time.Duration) {
	busy, next, err := s.mounts.tidy(ctx, s.numbers)
	if err != nil {
		s.log.WarnContext(ctx, "images that no snapshot uses stay mounted until they can be unmounted", "error", err)
	}
	if err := s.Cleanup(ctx); err != nil {
		s.log.WarnContext(ctx, "files of removed snapshots are left to the next clean-up", "error", err)
	}
	done, err := s.retain(ctx)
	if err != nil {
		s.log.WarnContext(ctx, "images without snapshots are not dropped", "error", err)
	}
	if (busy || !done) && (next == 0 || next > tidyInterval) {
		return tidyInterval
	}
	return next
}

// numbers returns the names of all snapshots by number.
func (s *Snapshotter) numbers(ctx context.Context) (ids map[string]string, err error) {
	err = s.store.WithTransaction(ctx, false, func(ctx context.Context) error {
		ids, err = storage.IDMap(ctx)
		return err
	})
	if errdefs.IsNotFound(err) { // there is no bucket in a new database
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	return ids, nil
}

// retain says which images have snapshots, unless one is being looked up.
func (s *Snapshotter) retain(ctx context.Context) (done bool, err error) {
	if !s.gate.TryLock() {
		return false, nil
	}
	defer s.gate.Unlock()
	ids, err := s.Images(ctx)
	if err != nil {
		return false, err
	}
	s.decider.retain(ids)
	if err := s.cfg.Images.Retain(ctx, ids); err != nil {
		return false, fmt.Errorf("telling which images have snapshots: %w", err)
	}
	return true, nil
}

// Images returns the IDs of all images that have lazy snapshots.
func (s *Snapshotter) Images(ctx context.Context) ([]string, error) {
	images := make(map[string]struct{})
	err := s.walk(ctx, func(_ context.Context, _ string, info snapshots.Info) error {
		if image, ok := info.Labels[LabelImage]; ok {
			images[image] = struct{}{}
		}
		return nil
	})
	return slices.Sorted(maps.Keys(images)), err
}

// walk calls fn with all snapshots and their numbers.
func (s *Snapshotter) walk(ctx context.Context, fn func(ctx context.Context, id string, info snapshots.Info) error) error {
	err := s.store.WithTransaction(ctx, false, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if err != nil {
			return err
		}
		for id, name := range ids {
			_, info, _, err := storage.GetInfo(ctx, name)
			if err != nil {
				return err
			}
			if err := fn(ctx, id, info); err != nil {
				return err
			}
		}
		return nil
	})
	// There is no bucket in a new database.
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// restore finds out which lazy snapshots are in use. Nothing is mounted: mounts are made
// again when somebody asks for them.
func (s *Snapshotter) restore(ctx context.Context) error {
	return s.walk(ctx, func(ctx context.Context, id string, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted {
			return nil
		}
		lowers, err := walkDown(ctx, info.Parent)
		if err != nil {
			// One broken snapshot must not take the others with it.
			s.log.WarnContext(ctx, "snapshot cannot be used", "snapshot", info.Name, "error", err)
			return nil
		}
		if lowers.lazy != nil {
			s.mounts.use(*lowers.lazy, id)
		}
		return nil
	})
}

// Cleanup implements snapshots.Cleaner: it removes the files of snapshots that are not
// there any more.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	var left []string
	// While nobody else can write to the database, no directory is one of a snapshot
	// about to be added. One that a failed transaction has left can become one, so
	// what is to be removed is given another name first.
	err := s.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		ids, err := storage.IDMap(ctx)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		entries, err := os.ReadDir(filepath.Join(s.cfg.Root, "snapshots"))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			name := entry.Name()
			if _, ok := ids[name]; ok || s.mounts.mounted(name) {
				continue
			}
			doomed, err := s.doom(name)
			if errors.Is(err, os.ErrNotExist) {
				continue // whoever removed the snapshot has removed it by now
			}
			if err != nil {
				return err
			}
			left = append(left, doomed)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for files of removed snapshots: %w", err)
	}
	var errs []error
	for _, name := range left {
		errs = append(errs, s.removeDir(name))
	}
	return errors.Join(errs...)
}

// doom gives a directory that is to be removed a name that no snapshot has.
func (s *Snapshotter) doom(name string) (string, error) {
	if strings.HasPrefix(name, doomedPrefix) {
		return name, nil
	}
	return doomedPrefix + name, os.Rename(s.dirPath(name), s.dirPath(doomedPrefix+name))
}

// removeDir removes the files of a snapshot that is not there any more, but not what an
// image is mounted on.
func (s *Snapshotter) removeDir(id string) error {
	if s.mounts.mounted(id) {
		return nil
	}
	if err := s.unbind(id); err != nil {
		return err
	}
	if err := os.RemoveAll(s.dirPath(id)); err != nil {
		return fmt.Errorf("removing the files of a snapshot: %w", err)
	}
	return nil
}
