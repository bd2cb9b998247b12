package adopt

import (
	"context"
	"fmt"
	"strconv"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/brisk-project/brisk/lazyfs/snapshotter"
)

// Streams finds layer streams.
type Streams interface {
	// Stream returns the file that has the stream of a layer, in part or in full, and
	// how long it is in full. image is the ID in the labels of a lazy snapshot, the bottom
	// layer is 0.
	Stream(image string, layer int) (path string, size int64, err error)
}

// Giver gives images back: it makes snapshots of another snapshotter from ours, without the
// network.
type Giver struct {
	Client *containerd.Client
	// From is our snapshotter, whose agent has to run for Give, and To the other one.
	From, To string
	// Streams has what lazy snapshots stand for.
	Streams Streams
	// Report, if set, is told what became of each image that To lacked; err says why it
	// cannot be run with To.
	Report func(image *Image, err error)
}

// eachConfig calls fn with the configs, in every namespace, that refer to a snapshot of ours.
func (g *Giver) eachConfig(ctx context.Context, fn func(ctx context.Context, image *Image, top string) error) error {
	all, err := g.Client.NamespaceService().List(ctx)
	if err != nil {
		return fmt.Errorf("listing the namespaces of containerd: %w", err)
	}
	for _, namespace := range all {
		ctx := namespaces.WithNamespace(ctx, namespace)
		configs, err := configs(ctx, g.Client)
		if err != nil {
			return err
		}
		records, err := records(ctx, g.Client)
		if err != nil {
			return err
		}
		for _, info := range configs {
			top, ok := info.Labels[LabelSnapshot+g.From]
			if !ok {
				continue
			}
			image := &Image{Namespace: namespace, Config: info.Digest, Names: namesOf(records[info.Digest]), Snapshotter: g.From}
			if err := fn(ctx, image, top); err != nil {
				return fmt.Errorf("in namespace %s: %w", namespace, err)
			}
		}
	}
	return nil
}

// Wanted returns the images that ours has and the other one lacks, complete or not.
func (g *Giver) Wanted(ctx context.Context) ([]*Image, error) {
	var wanted []*Image
	err := g.eachConfig(ctx, func(ctx context.Context, image *Image, top string) error {
		if len(image.Names) == 0 {
			return nil // it goes with the next collection
		}
		has, err := has(ctx, g.Client.SnapshotService(g.To), top)
		if err == nil && !has {
			wanted = append(wanted, image)
		}
		return err
	})
	return wanted, err
}

// Give makes the other snapshotter have the images that ours has. One that it cannot be given,
// because parts of it are not here, is reported.
func (g *Giver) Give(ctx context.Context) error {
	return g.eachConfig(ctx, func(ctx context.Context, image *Image, top string) error {
		if len(image.Names) == 0 {
			return nil
		}
		had := false
		err := leased(ctx, g.Client, func(ctx context.Context) (err error) {
			if had, err = has(ctx, g.Client.SnapshotService(g.To), top); err == nil && !had {
				err = g.give(ctx, image, top)
			}
			if err != nil {
				return err
			}
			return g.refer(ctx, image, g.To, top)
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if (!had || err != nil) && g.Report != nil {
			g.Report(image, err)
		}
		return nil
	})
}

// refer makes the config of an image refer to a snapshot, if both are still there.
func (g *Giver) refer(ctx context.Context, image *Image, of, name string) error {
	if err := refer(ctx, g.Client, image.Config, of, name); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// give makes the snapshots of one image.
func (g *Giver) give(ctx context.Context, image *Image, top string) error {
	chain, err := chainOf(ctx, g.Client.SnapshotService(g.From), top)
	if err != nil {
		return err
	}
	image.Chain = chain
	to, parent := g.Client.SnapshotService(g.To), ""
	for _, name := range chain {
		had, err := has(ctx, to, name)
		if err == nil && !had {
			err = draft{name: name, parent: parent, purpose: "give", fill: func(_ string, mounts []mount.Mount) error {
				return g.fill(ctx, name, parent, mounts)
			}}.commit(ctx, to)
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
		parent = name
	}
	return nil
}

// fill makes what is mounted have the files of a snapshot of ours.
func (g *Giver) fill(ctx context.Context, name, parent string, mounts []mount.Mount) error {
	ours := g.Client.SnapshotService(g.From)
	info, err := ours.Stat(ctx, name)
	if err != nil {
		return err
	}
	into, err := targetOf(mounts, parent)
	if err != nil {
		return err
	}
	if id, lazy := info.Labels[snapshotter.LabelImage]; lazy {
		layers, err := strconv.Atoi(info.Labels[snapshotter.LabelLayers])
		if err != nil {
			return fmt.Errorf("reading label %s: %w", snapshotter.LabelLayers, err)
		}
		path, size, err := g.Streams.Stream(id, layers-1)
		if err != nil {
			return err
		}
		return into.unpack(ctx, path, size, name, parent)
	}
	if info.Labels[snapshotter.LabelWhole] != "" && into.layered {
		return fmt.Errorf("%s has all layers in one directory, %s one each", info.Labels[snapshotter.LabelAdopted], g.To)
	}
	dirs, err := lowersOf(ctx, ours, name)
	if err != nil {
		return err
	}
	return into.merge(dirs[0])
}

// Forget makes containerd remove the snapshots of ours that nothing but images needs. The
// agent need not run.
func (g *Giver) Forget(ctx context.Context) error {
	err := g.eachConfig(ctx, func(ctx context.Context, image *Image, _ string) error {
		return g.refer(ctx, image, g.From, "")
	})
	if err != nil {
		return err
	}
	// To end a lease has containerd collect.
	manager := g.Client.LeasesService()
	all, err := g.Client.NamespaceService().List(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	ctx = namespaces.WithNamespace(ctx, all[0])
	lease, err := manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err != nil {
		return fmt.Errorf("asking containerd for a lease: %w", err)
	}
	if err := manager.Delete(ctx, lease, leases.SynchronousDelete); err != nil {
		return fmt.Errorf("having containerd collect garbage: %w", err)
	}
	return nil
}
