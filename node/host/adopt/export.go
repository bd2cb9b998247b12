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

// Exporter copies images to another snapshotter: it makes snapshots there from ours, without
// the network.
type Exporter struct {
	Client *containerd.Client
	// From is our snapshotter, whose agent has to run for Export, and To the other one.
	From, To string
	// Streams finds the layer streams of lazy snapshots.
	Streams Streams
	// Report, if set, is called for each image that To did not have; err says why it cannot be
	// run with To.
	Report func(image *Image, err error)
}

// eachConfig calls fn with the configs, in every namespace, that refer to a snapshot of ours.
func (e *Exporter) eachConfig(ctx context.Context, fn func(ctx context.Context, image *Image, top string) error) error {
	all, err := e.Client.NamespaceService().List(ctx)
	if err != nil {
		return fmt.Errorf("listing the namespaces of containerd: %w", err)
	}
	for _, namespace := range all {
		ctx := namespaces.WithNamespace(ctx, namespace)
		configs, err := configs(ctx, e.Client)
		if err != nil {
			return err
		}
		records, err := records(ctx, e.Client)
		if err != nil {
			return err
		}
		for _, info := range configs {
			top, ok := info.Labels[LabelSnapshot+e.From]
			if !ok {
				continue
			}
			image := &Image{Namespace: namespace, Config: info.Digest, Names: namesOf(records[info.Digest]), Snapshotter: e.From}
			if err := fn(ctx, image, top); err != nil {
				return fmt.Errorf("in namespace %s: %w", namespace, err)
			}
		}
	}
	return nil
}

// Missing returns the images that only our snapshotter has, complete or not.
func (e *Exporter) Missing(ctx context.Context) ([]*Image, error) {
	var missing []*Image
	err := e.eachConfig(ctx, func(ctx context.Context, image *Image, top string) error {
		if len(image.Names) == 0 {
			return nil // it goes with the next collection
		}
		has, err := has(ctx, e.Client.SnapshotService(e.To), top)
		if err == nil && !has {
			missing = append(missing, image)
		}
		return err
	})
	return missing, err
}

// Export makes snapshots of all missing images. An image that cannot be exported, because parts
// of it are not local, is reported.
func (e *Exporter) Export(ctx context.Context) error {
	return e.eachConfig(ctx, func(ctx context.Context, image *Image, top string) error {
		if len(image.Names) == 0 {
			return nil
		}
		had := false
		err := leased(ctx, e.Client, func(ctx context.Context) (err error) {
			if had, err = has(ctx, e.Client.SnapshotService(e.To), top); err == nil && !had {
				err = e.exportImage(ctx, image, top)
			}
			if err != nil {
				return err
			}
			return e.refer(ctx, image, e.To, top)
		})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if (!had || err != nil) && e.Report != nil {
			e.Report(image, err)
		}
		return nil
	})
}

// refer makes the config of an image refer to a snapshot, if both are still there.
func (e *Exporter) refer(ctx context.Context, image *Image, of, name string) error {
	if err := refer(ctx, e.Client, image.Config, of, name); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// exportImage makes the snapshots of one image.
func (e *Exporter) exportImage(ctx context.Context, image *Image, top string) error {
	chain, err := chainOf(ctx, e.Client.SnapshotService(e.From), top)
	if err != nil {
		return err
	}
	image.Chain = chain
	to, parent := e.Client.SnapshotService(e.To), ""
	for _, name := range chain {
		had, err := has(ctx, to, name)
		if err == nil && !had {
			err = draft{name: name, parent: parent, purpose: "give", fill: func(_ string, mounts []mount.Mount) error {
				return e.fill(ctx, name, parent, mounts)
			}}.commit(ctx, to)
		}
		if err != nil {
			return fmt.Errorf("snapshot %s: %w", name, err)
		}
		parent = name
	}
	return nil
}

// fill copies the files of one of our snapshots into a mount.
func (e *Exporter) fill(ctx context.Context, name, parent string, mounts []mount.Mount) error {
	ours := e.Client.SnapshotService(e.From)
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
		path, size, err := e.Streams.Stream(id, layers-1)
		if err != nil {
			return err
		}
		return into.unpack(ctx, path, size, name, parent)
	}
	if info.Labels[snapshotter.LabelWhole] != "" && into.layered {
		return fmt.Errorf("%s has all layers in one directory, %s one each", info.Labels[snapshotter.LabelAdopted], e.To)
	}
	dirs, err := lowersOf(ctx, ours, name)
	if err != nil {
		return err
	}
	return into.merge(dirs[0])
}

// DeleteSnapshots makes containerd remove our snapshots that only images use. The agent need
// not run.
func (e *Exporter) DeleteSnapshots(ctx context.Context) error {
	err := e.eachConfig(ctx, func(ctx context.Context, image *Image, _ string) error {
		return e.refer(ctx, image, e.From, "")
	})
	if err != nil {
		return err
	}
	// The end of a lease starts the garbage collection.
	manager := e.Client.LeasesService()
	all, err := e.Client.NamespaceService().List(ctx)
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
