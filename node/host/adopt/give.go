package adopt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
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
	plan := &Plan{Name: g.To, client: g.Client}
	for _, namespace := range all {
		ctx := namespaces.WithNamespace(ctx, namespace)
		configs, err := plan.configs(ctx)
		if err != nil {
			return err
		}
		names, complete, err := plan.records(ctx)
		if err != nil {
			return err
		}
		for _, info := range configs {
			top, ok := info.Labels[labelSnapshot+g.From]
			if !ok {
				continue
			}
			image := &Image{Namespace: namespace, Config: info.Digest, Names: names[info.Digest], Complete: complete[info.Digest], Snapshotter: g.From}
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
		has, err := g.has(ctx, top)
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
	plan := &Plan{client: g.Client}
	return g.eachConfig(ctx, func(ctx context.Context, image *Image, top string) error {
		if len(image.Names) == 0 {
			return nil
		}
		had := false
		err := plan.leased(ctx, func(ctx context.Context) (err error) {
			if had, err = g.has(ctx, top); err == nil && !had {
				err = g.give(ctx, image, top)
			}
			if err != nil {
				return err
			}
			return g.label(ctx, image, g.To, top)
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

// has reports whether the other snapshotter has a snapshot.
func (g *Giver) has(ctx context.Context, name string) (bool, error) {
	_, err := g.Client.SnapshotService(g.To).Stat(ctx, name)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// label makes a config refer to a snapshot, or to none if name is empty.
func (g *Giver) label(ctx context.Context, image *Image, of, name string) error {
	label := labelSnapshot + of
	_, err := g.Client.ContentStore().Update(ctx, content.Info{
		Digest: image.Config, Labels: map[string]string{label: name},
	}, "labels."+label)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("labelling config %s: %w", image.Config, err)
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
	parent := ""
	for _, name := range chain {
		has, err := g.has(ctx, name)
		if err == nil && !has {
			err = g.commit(ctx, name, parent)
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
		parent = name
	}
	return nil
}

// commit makes one snapshot.
func (g *Giver) commit(ctx context.Context, name, parent string) (err error) {
	to := g.Client.SnapshotService(g.To)
	key := "give-" + rand.Text() + " " + name
	mounts, err := to.Prepare(ctx, key, parent)
	if err != nil {
		return fmt.Errorf("preparing it: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(ctx, to, key))
		}
	}()
	if err := g.fill(ctx, name, parent, mounts); err != nil {
		return err
	}
	if err := to.Commit(ctx, name, key); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("committing it: %w", err)
	} else if err != nil {
		return remove(ctx, to, key)
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
		return g.label(ctx, image, g.From, "")
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
