package snapshotter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	labels "github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
)

// The labels of lazy snapshots. Nobody but the snapshotter can set them.
const (
	LabelImage  = "dev.brisk.snapshot.image"  // the ID of the image
	LabelLayers = "dev.brisk.snapshot.layers" // how many of its layers, in decimal digits
)

// lazyRef says what a lazy snapshot stands for.
type lazyRef struct {
	snapshot string // its number
	image    string
	layers   int
}

// refOf returns what a snapshot stands for if it is lazy.
func refOf(id string, info snapshots.Info) (lazyRef, bool, error) {
	image, ok := info.Labels[LabelImage]
	if !ok {
		return lazyRef{}, false, nil
	}
	layers, err := strconv.Atoi(info.Labels[LabelLayers])
	if err != nil || layers < 1 {
		return lazyRef{}, false, fmt.Errorf("reading snapshot %s: label %s is %.20q", info.Name, LabelLayers, info.Labels[LabelLayers])
	}
	return lazyRef{snapshot: id, image: image, layers: layers}, true, nil
}

// pullOf returns what the labels of a snapshot say of the layer that is unpacked in it.
func pullOf(of map[string]string) Pull {
	return Pull{
		Image: of[labels.TargetRefLabel], Manifest: of[labels.TargetManifestDigestLabel],
		Layer: of[labels.TargetLayerDigestLabel], ChainID: of[snapshots.LabelSnapshotRef],
	}
}

// prepareLazy commits a lazy snapshot in place of the layer that containerd is going to
// download, and reports whether it did. The error is one of the database.
func (s *Snapshotter) prepareLazy(ctx context.Context, key, parent string, info snapshots.Info) (bool, error) {
	// Images must not be dropped between being found and being referred to.
	s.gate.RLock()
	defer s.gate.RUnlock()
	pull := pullOf(info.Labels)
	if there, err := s.hasLazy(ctx, pull.ChainID, parent); there || err != nil {
		return there, err
	}
	if pull.Image == "" || pull.Manifest == "" {
		if parent == "" {
			s.decider.unknown(ctx, pull.ChainID)
		}
		return false, nil
	}
	found, err := s.decider.decide(ctx, pull, parent == "")
	if err != nil || found.image == nil {
		return false, err
	}
	position := slices.Index(found.chain, pull.ChainID)
	if position < 0 || (position == 0) != (parent == "") {
		return false, s.outside(ctx, pull, parent, found)
	}
	err = s.commitLazy(ctx, key, parent, info.Labels, lazyRef{image: found.image.ID(), layers: position + 1})
	if err != nil {
		return false, fmt.Errorf("making a lazy snapshot of %s: %w", pull.ChainID, err)
	}
	return true, nil
}

// outside makes known why a layer is none of those that can be loaded lazily.
func (s *Snapshotter) outside(ctx context.Context, pull Pull, parent string, found *decision) error {
	var below int
	err := s.store.WithTransaction(ctx, false, func(ctx context.Context) error {
		for name := parent; name != ""; below++ {
			_, info, _, err := storage.GetInfo(ctx, name)
			if err != nil {
				return err
			}
			name = info.Parent
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("counting the layers below %s: %w", pull.ChainID, err)
	}
	reason := ReasonMismatch
	if below >= len(found.chain) && !slices.Contains(found.chain, pull.ChainID) {
		reason = ReasonPartialIndex
	}
	defer s.decider.save(ctx)
	s.decider.plain(ctx, found, reason,
		fmt.Errorf("%d layers can be loaded lazily; %s on top of %d others is none of them", len(found.chain), pull.Layer, below))
	return nil
}

// hasLazy reports whether there is a lazy snapshot for a chain ID on this parent.
func (s *Snapshotter) hasLazy(ctx context.Context, chainID, parent string) (bool, error) {
	var found bool
	err := s.store.WithTransaction(ctx, false, func(ctx context.Context) error {
		for _, name := range []string{chainID, onParent(chainID, parent)} {
			_, info, _, err := storage.GetInfo(ctx, name)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			_, lazy := info.Labels[LabelImage]
			if lazy && info.Parent == parent && info.Labels[snapshots.LabelSnapshotRef] == chainID {
				found = true
			}
		}
		return nil
	})
	// There is no bucket in a new database.
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return found, err
}

// onParent names a lazy snapshot where its chain ID is taken, as happens when the same
// layers below it exist twice.
func onParent(chainID, parent string) string {
	sum := sha256.Sum256([]byte(parent))
	return chainID + "/" + hex.EncodeToString(sum[:8])
}

// commitLazy makes a committed snapshot with an empty directory.
func (s *Snapshotter) commitLazy(ctx context.Context, key, parent string, inherited map[string]string, ref lazyRef) error {
	name := inherited[snapshots.LabelSnapshotRef]
	marked := maps.Clone(inherited)
	marked[LabelImage], marked[LabelLayers] = ref.image, strconv.Itoa(ref.layers)
	return s.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		made, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent, snapshots.WithLabels(inherited))
		if err != nil {
			return err
		}
		if _, _, _, err := storage.GetInfo(ctx, name); err == nil {
			name = onParent(name, parent)
		}
		if _, _, _, err := storage.GetInfo(ctx, name); err == nil {
			name = onParent(name, parent+" "+ref.image) // both are hidden
		}
		if _, err = storage.CommitActive(ctx, key, name, snapshots.Usage{}, snapshots.WithLabels(marked)); err != nil {
			return err
		}
		return s.makeDir(made.ID, false, func(string) error { return nil })
	})
}
