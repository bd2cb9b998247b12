package adopt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/brisk-project/brisk/lazyfs/snapshotter"
)

// leaseTime is how long containerd keeps what was begun if this process dies.
const leaseTime = time.Hour

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// Adopt makes the snapshots of all images, which containerd must have the snapshotter for.
// One image that fails does not keep the others from being adopted. It returns how many
// were.
func (p *Plan) Adopt(ctx context.Context) (adopted int, err error) {
	var errs []error
	for _, group := range p.byNamespace() {
		ctx := namespaces.WithNamespace(ctx, group[0].Namespace)
		err := p.leased(ctx, func(ctx context.Context) error {
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

// leased calls fn with a context in which nothing that is made is collected.
func (p *Plan) leased(ctx context.Context, fn func(context.Context) error) (err error) {
	lasting, done, err := p.client.WithLease(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err != nil {
		return fmt.Errorf("asking containerd for a lease: %w", err)
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	return fn(lasting)
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
		_, err := ours.Stat(ctx, name)
		if errdefs.IsNotFound(err) {
			err = p.commit(ctx, image, name, parent, trees[i])
		}
		if err != nil {
			return err
		}
		parent = name
	}
	label := labelSnapshot + p.Name
	_, err = p.client.ContentStore().Update(ctx, content.Info{
		Digest: image.Config, Labels: map[string]string{label: parent},
	}, "labels."+label)
	if err != nil {
		return fmt.Errorf("labelling config %s: %w", image.Config, err)
	}
	return nil
}

// commit makes one snapshot.
func (p *Plan) commit(ctx context.Context, image *Image, name, parent string, t tree) (err error) {
	from, ours := p.client.SnapshotService(image.Snapshotter), p.client.SnapshotService(p.Name)
	usage, err := from.Usage(ctx, name)
	if err != nil {
		return fmt.Errorf("asking for the size of snapshot %s: %w", name, err)
	}
	labels := map[string]string{
		snapshotter.LabelAdopt:      t.dir,
		snapshotter.LabelAdoptUsage: fmt.Sprintf("%d,%d", usage.Size, usage.Inodes),
	}
	if t.whole {
		labels[snapshotter.LabelAdoptWhole] = "true"
	}
	key := "adopt-" + rand.Text() + " " + name
	if _, err := ours.Prepare(ctx, key, parent, snapshots.WithLabels(labels)); err != nil {
		return fmt.Errorf("preparing snapshot %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(ctx, ours, key))
		}
	}()
	info, err := ours.Stat(ctx, key)
	if err != nil {
		return fmt.Errorf("looking at prepared snapshot %s: %w", name, err)
	}
	if info.Labels[snapshotter.LabelAdopted] != t.dir {
		return errors.New("the agent that runs cannot adopt snapshots: restart it, so that it is of this version")
	}
	kept := map[string]string{labelSnapshot + image.Snapshotter: name}
	if err := ours.Commit(ctx, name, key, snapshots.WithLabels(kept)); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("committing snapshot %s: %w", name, err)
	} else if err != nil {
		return remove(ctx, ours, key) // somebody was faster
	}
	return nil
}

// remove removes a snapshot if it is there, whatever has happened to ctx.
func remove(ctx context.Context, from snapshots.Snapshotter, key string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if err := from.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("removing snapshot %s: %w", key, err)
	}
	return nil
}
