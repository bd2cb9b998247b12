package doctor

import (
	"context"
	"maps"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"

	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/node/host/adopt"
)

// images tells what installing does with the images that containerd has already.
func (d *doctor) images(ctx context.Context) {
	address := d.cfg.Node.Containerd.Address
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := containerdapi.Version(asking, address); err != nil {
		return // another check says so
	}
	client, err := containerd.New(address, containerd.WithTimeout(askTimeout))
	if err != nil {
		d.warn("", "connecting to containerd on %s: %v", address, err)
		return
	}
	defer client.Close() //nolint:errcheck // it was asked questions only
	plan, err := adopt.Find(ctx, client, d.cfg.Target.Name)
	if err != nil {
		d.warn("", "%v", err)
		return
	}
	if len(plan.Images)+len(plan.Foreign) == 0 {
		d.ok("no image has to be adopted; %d were", plan.Present)
		return
	}
	if len(plan.Images) > 0 {
		d.ok("brisk-node install adopts %d images that %s has unpacked, in %d snapshots: they run without being pulled or unpacked again",
			len(plan.Images), snapshotters(plan.Images), plan.Snapshots())
	}
	lost := plan.Lost()
	if again := len(plan.Foreign) - len(lost); again > 0 {
		d.warn("", "%d images of %s cannot be adopted: containerd has their layers, and unpacks them again", again, snapshotters(plan.Foreign))
	}
	if len(lost) > 0 {
		var names []string
		for _, image := range lost {
			names = append(names, image.String())
		}
		d.fail("remove them, or run brisk-node install with --skip-lost-images and pull them again",
			"%d images of %s can neither be adopted nor unpacked again: %s", len(lost), snapshotters(lost), strings.Join(names, ", "))
	}
}

// snapshotters names those that have unpacked images.
func snapshotters(images []*adopt.Image) string {
	names := make(map[string]bool)
	for _, image := range images {
		names[image.Snapshotter] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}
