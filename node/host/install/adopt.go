package install

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/node/host/adopt"
	"github.com/brisk-project/brisk/node/host/containerdconfig"
)

// findTimeout is how long it may take to find what is unpacked.
const findTimeout = 2 * time.Minute

// LostError lists images that must be pulled again after the installation.
type LostError struct{ Images []*adopt.Image }

// Error implements error.
func (e *LostError) Error() string {
	var lines []string
	for _, image := range e.Images {
		lines = append(lines, fmt.Sprintf("\n  %s, unpacked by %s", image, image.Snapshotter))
	}
	return fmt.Sprintf("%d images cannot be adopted and would have to be pulled again, because containerd has discarded their layers; "+
		"remove them, or go on with --skip-lost-images:%s", len(e.Images), strings.Join(lines, ""))
}

// find asks containerd what there is to adopt. The plan is nil if containerd does not answer.
func (i *Installer) find(ctx context.Context, use func(*adopt.Plan) error) (err error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := containerdapi.Version(asking, i.cfg.Address); err != nil {
		i.log.DebugContext(ctx, "containerd does not answer", "error", err)
		return use(nil)
	}
	client, err := dial(i.cfg.Address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	finding, cancel := context.WithTimeout(ctx, findTimeout)
	defer cancel()
	plan, err := adopt.Find(finding, client, i.cfg.Target.Name)
	if err != nil {
		return err
	}
	return use(plan)
}

// unpacked returns how many images there are to adopt, before anything is changed. It is an
// error if others would be lost.
func (i *Installer) unpacked(ctx context.Context) (images int, err error) {
	err = i.find(ctx, func(plan *adopt.Plan) error {
		if plan == nil {
			i.report("containerd does not answer: images that it has unpacked are not adopted before this is run again")
			return nil
		}
		for _, image := range plan.Foreign {
			i.report("image %s cannot be adopted from %s", image, image.Snapshotter)
		}
		if lost := plan.Lost(); len(lost) > 0 && !i.cfg.SkipLost {
			return &LostError{lost}
		}
		images = len(plan.Images)
		if images > 0 {
			i.report("%d images are unpacked, in %d snapshots to adopt", images, plan.Snapshots())
		}
		return nil
	})
	return images, err
}

// adopt adopts what is unpacked. For that containerd has to know the snapshotter already,
// while it makes containers with the other one. ready says that it may now use ours.
func (i *Installer) adopt(ctx context.Context, images int) (ready bool, err error) {
	if images == 0 || i.cfg.DryRun {
		return true, nil
	}
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	known, err := containerdapi.HasSnapshotter(asking, i.cfg.Address, i.cfg.Target.Name)
	if err != nil {
		return false, err
	}
	if known {
		if err := i.adoptNow(ctx); err != nil {
			return false, err
		}
		return true, nil
	}
	if err := i.reconfigure(ctx, containerdconfig.Registered); err != nil {
		return false, err
	}
	if !i.cfg.Systemd {
		i.report("after the restart, run this command again: it adopts the images. Until then containers are created as before")
		return false, nil
	}
	if err := i.adoptNow(ctx); err != nil {
		err = fmt.Errorf("the configuration is as before, for images would not run with the new one: %w", err)
		return false, errors.Join(err, i.reconfigure(context.WithoutCancel(ctx), containerdconfig.Absent))
	}
	return true, nil
}

func (i *Installer) adoptNow(ctx context.Context) error {
	return i.find(ctx, func(plan *adopt.Plan) error {
		if plan == nil {
			return fmt.Errorf("containerd does not answer on %s", i.cfg.Address)
		}
		if len(plan.Images) == 0 {
			return nil
		}
		adopted, err := plan.Adopt(ctx)
		i.report("adopted %d of %d images", adopted, len(plan.Images))
		return err
	})
}

// adoptLate adopts what was pulled between the first look and the restart of containerd, or
// what is left of an installation before.
func (i *Installer) adoptLate(ctx context.Context) {
	if i.cfg.DryRun || !i.cfg.Systemd {
		return
	}
	if err := i.adoptNow(ctx); err != nil {
		i.report("not all images are adopted: %v", err)
	}
}
