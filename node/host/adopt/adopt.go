package adopt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/brisk-project/brisk/lazyfs/snapshotter"
)

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// Adopt makes the snapshots of all images, which containerd must have the snapshotter for.
// One image that fails does not keep the others from being adopted. It returns how many
// were.
func (p *Plan) Adopt(ctx context.Context) (adopted int, err error) {
	var errs []error
	for _, group := range p.byNamespace() {
		ctx := namespaces.WithNamespace(ctx, group[0].Namespace)
		err := leased(ctx, p.client, func(ctx context.Context) error {
			if err := p.removeStale(ctx, group); err != nil {
				return err
			}
			for _, image := range group {
				if err := p.adopt(ctx, image); err != nil {
					errs = append(errs, fmt.Errorf("adopting image %s: %w", image, err))
					continue
				}
				adopted++
			}
			return nil
		})
		errs = append(errs, err)
	}
	return adopted, errors.Join(errs...)
}

func (p *Plan) byNamespace() [][]*Image {
	var groups [][]*Image
	for _, image := range p.Images {
		if n := len(groups); n > 0 && groups[n-1][0].Namespace == image.Namespace {
			groups[n-1] = append(groups[n-1], image)
			continue
		}
		groups = append(groups, []*Image{image})
	}
	return groups
}

// removeStale removes what containerd believes the snapshotter to have, which has lost it
// since, as with its directory. Snapshots that others are on come after these.
func (p *Plan) removeStale(ctx context.Context, images []*Image) error {
	byDepth := make(map[int]map[string]bool)
	for _, image := range images {
		for depth, name := range image.Chain {
			if byDepth[depth] == nil {
				byDepth[depth] = make(map[string]bool)
			}
			byDepth[depth][name] = true
		}
	}
	ours := p.client.SnapshotService(p.Name)
	for _, depth := range slices.Backward(slices.Sorted(maps.Keys(byDepth))) {
		for name := range byDepth[depth] {
			_, err := ours.Stat(ctx, name)
			if err == nil {
				continue
			}
			if errdefs.IsNotFound(err) {
				err = ours.Remove(ctx, name)
			}
			if err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("removing what is left of snapshot %s: %w", name, err)
			}
		}
	}
	return nil
}

// adopt makes the snapshots of an image, and lets its config refer to them.
func (p *Plan) adopt(ctx context.Context, image *Image) error {
	from, ours := p.client.SnapshotService(image.Snapshotter), p.client.SnapshotService(p.Name)
	trees, err := treesOf(ctx, from, image.Chain)
	if err != nil {
		return err
	}
	parent := ""
	for i, name := range image.Chain {
		had, err := has(ctx, ours, name)
		if err == nil && !had {
			err = p.commit(ctx, image, name, parent, trees[i])
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
		parent = name
	}
	return refer(ctx, p.client, image.Config, p.Name, parent)
}

// commit makes one snapshot.
func (p *Plan) commit(ctx context.Context, image *Image, name, parent string, t tree) error {
	from, ours := p.client.SnapshotService(image.Snapshotter), p.client.SnapshotService(p.Name)
	usage, err := from.Usage(ctx, name)
	if err != nil {
		return fmt.Errorf("asking for its size: %w", err)
	}
	labels := map[string]string{
		snapshotter.LabelAdopt:      t.dir,
		snapshotter.LabelAdoptUsage: fmt.Sprintf("%d,%d", usage.Size, usage.Inodes),
	}
	if t.whole {
		labels[snapshotter.LabelAdoptWhole] = "true"
	}
	return draft{
		name: name, parent: parent, purpose: "adopt", prepared: labels,
		committed: map[string]string{LabelSnapshot + image.Snapshotter: name},
		fill: func(key string, _ []mount.Mount) error {
			info, err := ours.Stat(ctx, key)
			if err != nil {
				return fmt.Errorf("looking at it once it is prepared: %w", err)
			}
			if info.Labels[snapshotter.LabelAdopted] != t.dir {
				return errors.New("the agent that runs cannot adopt snapshots: restart it, so that it is of this version")
			}
			return nil
		},
	}.commit(ctx, ours)
}
