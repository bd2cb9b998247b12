package snapshotter

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	labels "github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
)

// maxNamed is how many images an error names.
const maxNamed = 10

// check returns why nothing new may stand on a lazy snapshot, nil if nothing speaks
// against it. The error is for whoever operates the node.
func (s *Snapshotter) check(ctx context.Context, ref lazyRef) error {
	if s.cfg.Check == nil {
		return nil
	}
	reason := s.cfg.Check(ref.image, ref.layers)
	if reason == nil {
		return nil
	}
	sharing, err := s.imagesOn(ctx, ref.image)
	if err != nil {
		s.log.WarnContext(ctx, "images that share layers are not named", "error", err)
	}
	named := "\"brisk-node status\" lists images"
	if len(sharing) > 0 {
		named = strings.Join(sharing[:min(len(sharing), maxNamed)], " ")
	}
	return fmt.Errorf("%w: layers are quarantined: %w; remove the containers and images that use them (%s), then pull again: the layers are downloaded in full then",
		errdefs.ErrFailedPrecondition, reason, named)
}

// imagesOn returns the names of the images with snapshots that are, or stand on, lazy ones
// of an image: while there are any, containerd does not ask for these layers again.
func (s *Snapshotter) imagesOn(ctx context.Context, image string) ([]string, error) {
	all := make(map[string]snapshots.Info)
	err := s.walk(ctx, func(_ context.Context, _ string, info snapshots.Info) error {
		all[info.Name] = info
		return nil
	})
	named := make(map[string]struct{})
	for _, info := range all {
		name := info.Labels[labels.TargetRefLabel]
		for below, ok := info, name != ""; ok; below, ok = all[below.Parent] {
			if below.Labels[LabelImage] == image {
				named[name] = struct{}{}
				break
			}
		}
	}
	return slices.Sorted(maps.Keys(named)), err
}

// Quarantine hides from pulls the lazy snapshots that [Config.Check] has something against.
// Who is asked for one of these layers once more does not get the snapshot that is there.
// It is called when Check may have changed its mind.
func (s *Snapshotter) Quarantine(ctx context.Context) error {
	if s.cfg.Check == nil {
		return nil
	}
	var hidden []string
	err := s.walk(ctx, func(_ context.Context, id string, info snapshots.Info) error {
		ref, lazy, err := refOf(id, info)
		if err == nil && lazy && info.Labels[snapshots.LabelSnapshotRef] != "" && s.cfg.Check(ref.image, ref.layers) != nil {
			hidden = append(hidden, info.Name)
		}
		return nil
	})
	if err == nil && len(hidden) > 0 {
		err = s.store.WithTransaction(ctx, true, func(ctx context.Context) error { return hide(ctx, hidden) })
	}
	if err != nil {
		return fmt.Errorf("hiding quarantined layers from pulls: %w", err)
	}
	s.nudge() // idle mounts of them are given up
	return nil
}

// hide removes the label by which containerd finds snapshots that it does not know yet.
func hide(ctx context.Context, names []string) error {
	for _, name := range names {
		_, info, _, err := storage.GetInfo(ctx, name)
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		delete(info.Labels, snapshots.LabelSnapshotRef)
		if _, err := storage.UpdateInfo(ctx, info, "labels"); err != nil {
			return err
		}
	}
	return nil
}
