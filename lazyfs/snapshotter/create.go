package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// below is what lies below a snapshot, as far as mounts of it are concerned.
type below struct {
	ids  []string // directories that are lower ones, the nearest first; the last is that of lazy or of a whole tree
	lazy *lazyRef // nil if there is none
	// adopted are the directories of those that are adopted, by number.
	adopted map[string]string
}

// walkDown follows the parents from one on down to the first that takes the place of those
// below it: one that is lazy, or adopted as a whole. It needs a transaction.
func walkDown(ctx context.Context, parent string) (below, error) {
	found := below{adopted: make(map[string]string)}
	for parent != "" {
		id, info, _, err := storage.GetInfo(ctx, parent)
		if err != nil {
			return below{}, err
		}
		found.ids = append(found.ids, id)
		ref, lazy, err := refOf(id, info)
		if err != nil {
			return below{}, err
		}
		if lazy {
			found.lazy = &ref
			break
		}
		if dir, ok := info.Labels[LabelAdopted]; ok {
			found.adopted[id] = dir
		}
		if info.Labels[LabelWhole] != "" {
			break
		}
		parent = info.Parent
	}
	return found, nil
}

// creation is a snapshot that is to be made.
type creation struct {
	kind        snapshots.Kind
	key, parent string
	labels      map[string]string
	opts        []snapshots.Opt
}

// create makes a snapshot and mounts the image below it, if there is one.
func (s *Snapshotter) create(ctx context.Context, c creation) ([]mount.Mount, error) {
	var lowers below
	if c.parent != "" {
		err := s.store.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
			lowers, err = walkDown(ctx, c.parent)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("looking for parent %s: %w", c.parent, err)
		}
	}
	if lowers.lazy != nil {
		if err := s.check(ctx, *lowers.lazy); err != nil {
			return nil, err
		}
	}
	if err := s.bind(c.labels, lowers); err != nil {
		return nil, err
	}
	// Mounting takes longer than a transaction should. The number of the snapshot is
	// not known before it is made, so until then somebody stands in for it.
	standIn := "preparing " + strconv.FormatUint(s.created.Add(1), 10)
	if lowers.lazy != nil {
		if err := s.mounts.acquire(ctx, *lowers.lazy, standIn); err != nil {
			return nil, unavailable(err)
		}
		// Mounting may have shown what nobody knew before.
		if err := s.check(ctx, *lowers.lazy); err != nil {
			s.mounts.release(ctx, lowers.lazy.snapshot, standIn)
			return nil, err
		}
	}
	made, err := s.insert(ctx, c, lowers)
	if lowers.lazy != nil {
		if err != nil {
			s.mounts.release(ctx, lowers.lazy.snapshot, standIn)
		} else {
			s.mounts.swap(lowers.lazy.snapshot, standIn, made.ID)
		}
	}
	if err != nil {
		return nil, err
	}
	return s.mountsOf(made, c.labels, lowers), nil
}

// insert adds the snapshot to the database and makes its directory.
func (s *Snapshotter) insert(ctx context.Context, c creation, lowers below) (made storage.Snapshot, err error) {
	err = s.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		made, err = storage.CreateSnapshot(ctx, c.kind, c.key, c.parent, c.opts...)
		if err != nil {
			return err
		}
		if n := len(lowers.ids); n > len(made.ParentIDs) || !slices.Equal(lowers.ids, made.ParentIDs[:n]) {
			return fmt.Errorf("%w: parent %s was replaced meanwhile", errdefs.ErrUnavailable, c.parent)
		}
		return s.makeDir(made.ID, c.kind == snapshots.KindActive, func(dir string) error {
			return s.chown(dir, c.labels, lowers)
		})
	})
	return made, err
}

// chown gives the directory of a snapshot to root of its user namespace, or else to
// whom the root of its parent belongs.
func (s *Snapshotter) chown(dir string, labels map[string]string, lowers below) error {
	uid, gid, mapped, err := rootOwner(labels)
	if err != nil {
		return err
	}
	if !mapped {
		if len(lowers.ids) == 0 {
			return nil
		}
		info, err := os.Stat(fsPath(s.cfg.Root, lowers.ids[0]))
		if err != nil {
			return fmt.Errorf("looking at the parent: %w", err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("looking at the parent: it has no owner")
		}
		uid, gid = int(stat.Uid), int(stat.Gid)
	}
	if err := os.Lchown(dir, uid, gid); err != nil {
		return fmt.Errorf("setting the owner of a snapshot: %w", err)
	}
	return nil
}

// mountsOf returns what has to be mounted for a snapshot: an overlay, or a bind mount
// where there is a single directory.
func (s *Snapshotter) mountsOf(made storage.Snapshot, labels map[string]string, lowers below) []mount.Mount {
	var options []string
	if m, ok := labels[snapshots.LabelSnapshotUIDMapping]; ok {
		options = append(options, "uidmap="+m)
	}
	if m, ok := labels[snapshots.LabelSnapshotGIDMapping]; ok {
		options = append(options, "gidmap="+m)
	}
	bind := func(id, mode string) []mount.Mount {
		return []mount.Mount{{Type: "bind", Source: fsPath(s.cfg.Root, id), Options: append(options, mode, "rbind")}}
	}
	writable := made.Kind == snapshots.KindActive
	switch {
	case len(lowers.ids) == 0 && writable:
		return bind(made.ID, "rw")
	case len(lowers.ids) == 0:
		return bind(made.ID, "ro")
	case len(lowers.ids) == 1 && !writable:
		return bind(lowers.ids[0], "ro")
	case writable:
		options = append(options, "workdir="+workPath(s.cfg.Root, made.ID), "upperdir="+fsPath(s.cfg.Root, made.ID))
	}
	options = append(options, "lowerdir="+strings.Join(s.lowerDirs(labels, lowers), ":"))
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: append(options, s.overlayOptions...)}}
}
