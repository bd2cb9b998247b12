package adopt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
)

const (
	// LabelSnapshot begins the labels by which the config of an image refers to its
	// uppermost snapshot, and one snapshot to another, for containerd's garbage collector.
	// The name of the snapshotter follows.
	LabelSnapshot = "containerd.io/gc.ref.snapshot."

	// leaseTime is how long containerd keeps what was begun if this process dies.
	leaseTime = time.Hour
	// removeTimeout is how long the removal of a snapshot may take.
	removeTimeout = 10 * time.Second
)

// configs returns the contents that say where an image is unpacked.
func configs(ctx context.Context, client *containerd.Client) ([]content.Info, error) {
	var found []content.Info
	err := client.ContentStore().Walk(ctx, func(info content.Info) error {
		for label := range info.Labels {
			if strings.HasPrefix(label, LabelSnapshot) {
				found = append(found, info)
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing contents: %w", err)
	}
	return found, nil
}

// records returns the image records by the digest of their config.
func records(ctx context.Context, client *containerd.Client) (map[digest.Digest][]images.Image, error) {
	all, err := client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	found := make(map[digest.Digest][]images.Image)
	for _, image := range all {
		config, err := image.Config(ctx, client.ContentStore(), platforms.Default())
		if err != nil {
			continue // it cannot be run, with or without us
		}
		found[config.Digest] = append(found[config.Digest], image)
	}
	return found, nil
}

func namesOf(records []images.Image) []string {
	var names []string
	for _, image := range records {
		names = append(names, image.Name)
	}
	return names
}

// leased calls fn with a context in which nothing that is made is collected.
func leased(ctx context.Context, client *containerd.Client, fn func(context.Context) error) (err error) {
	lasting, done, err := client.WithLease(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime))
	if err != nil {
		return fmt.Errorf("asking containerd for a lease: %w", err)
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	return fn(lasting)
}

// refer makes a config refer to a snapshot, or to none of that snapshotter if name is empty.
func refer(ctx context.Context, client *containerd.Client, config digest.Digest, snapshotter, name string) error {
	label := LabelSnapshot + snapshotter
	_, err := client.ContentStore().Update(ctx, content.Info{
		Digest: config, Labels: map[string]string{label: name},
	}, "labels."+label)
	if err != nil {
		return fmt.Errorf("labelling config %s: %w", config, err)
	}
	return nil
}

// has reports whether a snapshotter has a snapshot.
func has(ctx context.Context, service snapshots.Snapshotter, name string) (bool, error) {
	_, err := service.Stat(ctx, name)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// draft is a snapshot that is to be made.
type draft struct {
	name, parent string
	// purpose begins the key that it has until it is committed.
	purpose string
	// prepared and committed are its labels before and after.
	prepared, committed map[string]string
	// fill gives it its content. key and mounts are those of the prepared snapshot.
	fill func(key string, mounts []mount.Mount) error
}

// commit makes a snapshot, unless somebody else is faster. With an error nothing is left.
func (d draft) commit(ctx context.Context, service snapshots.Snapshotter) (err error) {
	key := d.purpose + "-" + rand.Text() + " " + d.name
	mounts, err := service.Prepare(ctx, key, d.parent, snapshots.WithLabels(d.prepared))
	if err != nil {
		return fmt.Errorf("preparing it: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(ctx, service, key))
		}
	}()
	if err := d.fill(key, mounts); err != nil {
		return err
	}
	if err := service.Commit(ctx, d.name, key, snapshots.WithLabels(d.committed)); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("committing it: %w", err)
	} else if err != nil {
		return remove(ctx, service, key)
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
