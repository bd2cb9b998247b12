package install

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"

	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/node/host/adopt"
)

// releaseImages makes images independent of the snapshotter: those that are here in full are
// unpacked for the former one, the others are removed.
func (i *Installer) releaseImages(ctx context.Context, client *containerd.Client) error {
	former, err := i.former(ctx)
	if err != nil {
		return err
	}
	exporter := &adopt.Exporter{Client: client, From: i.cfg.Target.Name, To: former, Streams: i.cfg.Streams, Report: func(image *adopt.Image, err error) {
		if err != nil {
			i.report("image %s cannot be unpacked for %s: %v", image, former, err)
			return
		}
		i.report("unpacked image %s for %s", image, former)
	}}
	if former == "" {
		i.report("containerd has no snapshotter that images can be unpacked for")
	} else if err := i.exportImages(ctx, exporter); err != nil || i.cfg.DryRun {
		return err
	}
	found, err := i.incomplete(ctx, client, former)
	if err != nil {
		return err
	}
	for _, namespace := range slices.Sorted(maps.Keys(found)) {
		i.report("removing images that are not here in full, from namespace %s: %s", namespace, strings.Join(found[namespace], ", "))
	}
	if i.cfg.DryRun {
		return nil
	}
	if err := i.forget(ctx, client, found); err != nil {
		return err
	}
	return exporter.DeleteSnapshots(ctx)
}

// exportImages unpacks what is here in full for the former snapshotter.
func (i *Installer) exportImages(ctx context.Context, exporter *adopt.Exporter) error {
	missing, err := exporter.Missing(ctx)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		i.report("%d images are only on snapshots of the agent: those that are here in full are unpacked for %s, the others removed", len(missing), exporter.To)
	}
	if i.cfg.DryRun || i.cfg.Streams == nil || len(missing) > 0 && !i.ensureAgent(ctx) {
		return nil
	}
	return exporter.Export(ctx)
}

// former returns the snapshotter that the CRI will have, empty if containerd has no such
// one.
func (i *Installer) former(ctx context.Context) (string, error) {
	name, err := i.cfg.Target.PreviousSnapshotter()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	known, err := containerdapi.HasSnapshotter(ctx, i.cfg.Address, name)
	if err != nil || !known {
		return "", err
	}
	return name, nil
}

// ensureAgent reports whether the agent answers, after starting it if it does not.
func (i *Installer) ensureAgent(ctx context.Context) bool {
	if i.agentAlive(ctx) {
		return true
	}
	if i.cfg.Systemd {
		if err := i.systemctl(ctx, "start", UnitName); err != nil {
			i.log.DebugContext(ctx, "the agent does not start", "error", err)
		}
	}
	if i.agentAlive(ctx) {
		return true
	}
	i.report("the agent does not run: images that only it has unpacked are removed")
	return false
}

// incomplete returns the images, by namespace, that have to be pulled again before they can
// be run without the snapshotter: containerd has neither all layers of them nor a
// snapshot of the former one.
func (i *Installer) incomplete(ctx context.Context, client *containerd.Client, former string) (map[string][]string, error) {
	found := make(map[string][]string)
	err := each(ctx, client, func(ctx context.Context, namespace string) error {
		all, err := client.ImageService().List(ctx)
		if err != nil {
			return fmt.Errorf("listing images: %w", err)
		}
		for _, image := range all {
			// A manifest that is missing says nothing of layers.
			available, _, _, missing, err := images.Check(ctx, client.ContentStore(), image.Target, platforms.Default())
			if err != nil || !available || len(missing) == 0 {
				continue
			}
			unpacked, err := isUnpacked(ctx, client, image, former)
			if err != nil {
				return fmt.Errorf("looking at image %s: %w", image.Name, err)
			}
			if !unpacked {
				found[namespace] = append(found[namespace], image.Name)
			}
		}
		return nil
	})
	return found, err
}

// isUnpacked reports whether a snapshotter has an image.
func isUnpacked(ctx context.Context, client *containerd.Client, image images.Image, by string) (bool, error) {
	if by == "" {
		return false, nil
	}
	config, err := image.Config(ctx, client.ContentStore(), platforms.Default())
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	info, err := client.ContentStore().Info(ctx, config.Digest)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	top, ok := info.Labels[adopt.LabelSnapshot+by]
	if !ok {
		return false, nil
	}
	_, err = client.SnapshotService(by).Stat(ctx, top)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// forget removes image records, and waits until containerd has removed the snapshots.
func (i *Installer) forget(ctx context.Context, client *containerd.Client, found map[string][]string) error {
	var errs []error
	for namespace, names := range found {
		ctx := namespaces.WithNamespace(ctx, namespace)
		for n, name := range names {
			var opts []images.DeleteOpt
			if n == len(names)-1 {
				opts = append(opts, images.SynchronousDelete())
			}
			if err := client.ImageService().Delete(ctx, name, opts...); err != nil && !errdefs.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("removing image %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}
