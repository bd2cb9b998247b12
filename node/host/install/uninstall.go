package install

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs/kernel"
	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/node/host/containerdconfig"
)

// drainInterval is how often containerd is asked whether all containers have ended.
const drainInterval = time.Second

// UninstallOptions configures [Installer.Uninstall].
type UninstallOptions struct {
	// Drain creates new containers on the former snapshotter, and waits until the existing
	// ones have been removed.
	Drain bool
	// Force kills and removes the containers.
	Force bool
	// DrainTimeout is the maximum time that Drain waits; zero means until the context ends.
	DrainTimeout time.Duration
	// Purge also removes the state of the agent, such as its cache.
	Purge bool
}

// InUseError reports containers that use the snapshotter.
type InUseError struct{ Containers []Container }

// Error implements error.
func (e *InUseError) Error() string {
	var lines []string
	for _, user := range e.Containers {
		lines = append(lines, "\n  "+user.String())
	}
	return fmt.Sprintf("%d containers are on snapshots of the agent; remove them, wait for them with --drain, or kill them with --force:%s",
		len(e.Containers), strings.Join(lines, ""))
}

// Uninstall undoes what [Installer.Install] has done. If containers need the snapshotter
// and how says nothing of them, nothing is changed and the error is an [*InUseError].
func (i *Installer) Uninstall(ctx context.Context, how UninstallOptions) error {
	if i.cfg.Kubelet != "" {
		i.report("kubelet cannot pull images without the agent as long as imageServiceEndpoint is unix://%s in its configuration: "+
			"take that out, and restart kubelet", i.cfg.Kubelet)
	}
	if err := i.findVersion(ctx); err != nil {
		if !how.Force {
			return fmt.Errorf("%w; --force continues without containerd", err)
		}
		// Any version that knows drop-ins: removing is the same for all.
		i.cfg.Target.Version = containerdconfig.Version{Major: 2}
	}
	if err := i.release(ctx, how); err != nil {
		return err
	}
	if err := i.reconfigure(ctx, containerdconfig.Absent); err != nil {
		return err
	}
	if err := i.removeUnit(ctx); err != nil {
		return err
	}
	if err := i.unmount(ctx); err != nil {
		return err
	}
	if how.Purge {
		return i.purge()
	}
	return nil
}

// below returns what is mounted below the directory of the agent, the last mount first.
func (i *Installer) below() ([]string, error) {
	mounts, err := kernel.Mounts()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range slices.Backward(mounts) {
		if strings.HasPrefix(m.Point, filepath.Join(i.cfg.Target.Root, i.cfg.Target.Dir)+"/") {
			points = append(points, m.Point)
		}
	}
	return points, nil
}

// unmount unmounts what an agent has left that did not end well.
func (i *Installer) unmount(ctx context.Context) error {
	points, err := i.below()
	if err != nil || len(points) == 0 {
		return err
	}
	if i.agentAlive(ctx) {
		i.report("the agent still runs: what it has mounted stays")
		return nil
	}
	var errs []error
	for _, point := range points {
		i.report("unmounting %s", point)
		if !i.cfg.DryRun {
			errs = append(errs, kernel.Unmount(ctx, point, true))
		}
	}
	return errors.Join(errs...)
}

// release makes containerd independent of the snapshotter.
func (i *Installer) release(ctx context.Context, how UninstallOptions) (err error) {
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if _, err := containerdapi.Version(asking, i.cfg.Address); err != nil {
		if !how.Force {
			return fmt.Errorf("%w; start it, or use --force to continue without it", err)
		}
		i.report("%v: going on without asking it", err)
		return nil
	}
	client, err := dial(i.cfg.Address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if err := i.releaseContainers(ctx, client, how); err != nil {
		return err
	}
	return i.releaseImages(ctx, client)
}

// releaseContainers sees to it that no container needs the snapshotter.
func (i *Installer) releaseContainers(ctx context.Context, client *containerd.Client, how UninstallOptions) error {
	users, err := i.users(ctx, client)
	if err != nil || len(users) == 0 {
		return err
	}
	if !how.Drain && !how.Force {
		return &InUseError{users}
	}
	// From here on new containers are made elsewhere.
	if err := i.reconfigure(ctx, containerdconfig.Registered); err != nil {
		return err
	}
	if how.Drain {
		if err := i.drain(ctx, client, how.DrainTimeout); err != nil && !how.Force {
			return err
		}
	}
	if how.Force {
		return i.killAll(ctx, client)
	}
	return nil
}

// drain waits until no container needs the snapshotter.
func (i *Installer) drain(ctx context.Context, client *containerd.Client, patience time.Duration) error {
	if patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	tick := time.NewTicker(drainInterval)
	defer tick.Stop()
	last := -1
	for {
		users, err := i.users(ctx, client)
		switch {
		case err == nil && (len(users) == 0 || i.cfg.DryRun):
			return nil
		case err == nil && len(users) != last:
			i.report("waiting for %d containers to be removed", len(users))
			last = len(users)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for containers to be removed: %w", errors.Join(context.Cause(ctx), err, &InUseError{users}))
		}
	}
}

// killAll ends and removes all containers that need the snapshotter.
func (i *Installer) killAll(ctx context.Context, client *containerd.Client) error {
	users, err := i.users(ctx, client)
	if err != nil {
		return err
	}
	alive := i.agentAlive(ctx)
	var errs []error
	for _, user := range users {
		i.report("killing container %s", user)
		if !i.cfg.DryRun {
			errs = append(errs, i.kill(ctx, client, user, alive))
		}
	}
	return errors.Join(errs...)
}

// agentAlive reports whether the agent answers.
func (i *Installer) agentAlive(ctx context.Context) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", i.cfg.Target.Socket)
	return err == nil && conn.Close() == nil
}

func (i *Installer) removeUnit(ctx context.Context) error {
	if !i.cfg.Systemd {
		i.report("systemd does not manage this machine: stop the agent yourself")
		return nil
	}
	changes, err := i.unitChange(nil)
	if err != nil || len(changes) == 0 {
		return err
	}
	if err := i.systemctl(ctx, "disable", "--now", UnitName); err != nil {
		return fmt.Errorf("stopping the agent: %w", err)
	}
	i.report("removing %s", changes[0].Path)
	if i.cfg.DryRun {
		return nil
	}
	if err := containerdconfig.Apply(changes); err != nil {
		return err
	}
	return i.systemctl(ctx, "daemon-reload")
}

// purge removes what the agent has kept, unless something in it is mounted.
func (i *Installer) purge() error {
	dir := filepath.Join(i.cfg.Target.Root, i.cfg.Target.Dir)
	settings := filepath.Join(i.cfg.Target.Root, i.cfg.NodeConfig)
	points, err := i.below()
	if err != nil {
		return err
	}
	if len(points) > 0 && !i.cfg.DryRun {
		return fmt.Errorf("leaving %s alone: %s in it is still mounted", dir, points[0])
	}
	i.report("removing %s and %s", dir, settings)
	if i.cfg.DryRun {
		return nil
	}
	err = os.Remove(settings)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err := errors.Join(err, removeAll(dir)); err != nil {
		return fmt.Errorf("removing the state of the agent: %w", err)
	}
	return nil
}

// removeAll removes a directory with everything in it. If it is a filesystem of its own it
// stays, and is empty.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	if left, readErr := os.ReadDir(dir); readErr != nil || len(left) > 0 {
		return errors.Join(err, readErr)
	}
	return nil
}
