package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	containerdapi "github.com/brisk-project/brisk/node/containerd"
)

// readyTimeout is how long each of the checks may take.
const readyTimeout = 2 * time.Second

// AwaitReady waits until the agent can mount images and answers on its socket.
func (a *Agent) AwaitReady(ctx context.Context) error {
	select {
	case <-a.node.Ready():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return containerdapi.CheckSnapshotter(ctx, a.cfg.Socket, true)
}

// NotReady returns all reasons why this node cannot start containers as it should, none
// if it can.
func (a *Agent) NotReady(ctx context.Context) []error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var reasons []error
	for _, check := range []func(context.Context) error{a.checkMounts, a.checkSnapshotter, a.checkContainerd, a.checkDisk, a.checkRot} {
		if err := check(ctx); err != nil {
			reasons = append(reasons, err)
		}
	}
	return reasons
}

func (a *Agent) checkMounts(context.Context) error {
	select {
	case <-a.node.Ready():
		return nil
	default:
		return errors.New("mounts: mounts of the previous process are still being cleaned up")
	}
}

func (a *Agent) checkSnapshotter(ctx context.Context) error {
	if err := containerdapi.CheckSnapshotter(ctx, a.cfg.Socket, false); err != nil {
		return fmt.Errorf("snapshotter: %w", err)
	}
	return nil
}

func (a *Agent) checkContainerd(ctx context.Context) error {
	if a.cfg.Containerd == "" {
		return nil
	}
	if _, err := containerdapi.Version(ctx, a.cfg.Containerd); err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	return nil
}

func (a *Agent) checkDisk(context.Context) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(a.cfg.Node.Dir, &fs); err != nil {
		return fmt.Errorf("disk: asking how full it is: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < a.cfg.MinFree {
		return fmt.Errorf("disk: %d bytes are free and %d should be", free, a.cfg.MinFree)
	}
	return nil
}

func (a *Agent) checkRot(context.Context) error {
	if why := a.node.Suspect(); why != "" {
		return fmt.Errorf("disk: it is suspect: %s; replace it, or run \"brisk-node scrub trust\"", why)
	}
	return nil
}
