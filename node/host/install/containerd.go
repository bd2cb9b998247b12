package install

import (
	"context"
	"fmt"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/node/host/containerdconfig"
)

const (
	// askTimeout is how long a question to containerd may take.
	askTimeout = 10 * time.Second
	// killTimeout is how long a killed container may take to end.
	killTimeout = 30 * time.Second
)

// dial connects to containerd.
func dial(address string) (*containerd.Client, error) {
	client, err := containerd.New(address, containerd.WithTimeout(askTimeout))
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd on %s: %w", address, err)
	}
	return client, nil
}

// works asks containerd whether it works, and has the snapshotter if it should.
func (i *Installer) works(ctx context.Context, state containerdconfig.State) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	known, err := containerdapi.HasSnapshotter(ctx, i.cfg.Address, i.cfg.Target.Name)
	if err != nil {
		return err
	}
	if known != (state != containerdconfig.Absent) {
		return fmt.Errorf("containerd still uses its previous configuration (snapshotter %s present: %t)", i.cfg.Target.Name, known)
	}
	return nil
}

// Container is a container that needs the snapshotter.
type Container struct {
	Namespace, ID, Image string
	Running              bool
}

// String implements fmt.Stringer.
func (c Container) String() string {
	state := "stopped"
	if c.Running {
		state = "running"
	}
	return fmt.Sprintf("%s/%s of %s (%s)", c.Namespace, c.ID, c.Image, state)
}

// each calls fn in every namespace of containerd.
func each(ctx context.Context, client *containerd.Client, fn func(ctx context.Context, namespace string) error) error {
	all, err := client.NamespaceService().List(ctx)
	if err != nil {
		return fmt.Errorf("listing the namespaces of containerd: %w", err)
	}
	for _, namespace := range all {
		if err := fn(namespaces.WithNamespace(ctx, namespace), namespace); err != nil {
			return fmt.Errorf("in namespace %s: %w", namespace, err)
		}
	}
	return nil
}

// users returns the containers that have a snapshot of the snapshotter, running or not:
// without it containerd can remove none of them.
func (i *Installer) users(ctx context.Context, client *containerd.Client) ([]Container, error) {
	var found []Container
	err := each(ctx, client, func(ctx context.Context, namespace string) error {
		all, err := client.ContainerService().List(ctx)
		if err != nil {
			return fmt.Errorf("listing containers: %w", err)
		}
		for _, c := range all {
			if c.Snapshotter != i.cfg.Target.Name {
				continue
			}
			user := Container{Namespace: namespace, ID: c.ID, Image: c.Image}
			if loaded, err := client.LoadContainer(ctx, c.ID); err == nil {
				user.Running = running(ctx, loaded)
			}
			found = append(found, user)
		}
		return nil
	})
	return found, err
}

func running(ctx context.Context, c containerd.Container) bool {
	task, err := c.Task(ctx, nil)
	if err != nil {
		return false
	}
	status, err := task.Status(ctx)
	return err == nil && status.Status != containerd.Stopped
}

// kill ends a container and removes it, with its snapshot as long as the agent is there.
func (i *Installer) kill(ctx context.Context, client *containerd.Client, user Container, agent bool) error {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, user.Namespace), killTimeout)
	defer cancel()
	c, err := client.LoadContainer(ctx, user.ID)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("loading container %s: %w", user.ID, err)
	}
	if task, err := c.Task(ctx, nil); err == nil {
		if err := task.Kill(ctx, syscall.SIGKILL, containerd.WithKillAll); err != nil && !errdefs.IsNotFound(err) {
			i.log.DebugContext(ctx, "not all processes were killed", "container", user.ID, "error", err)
		}
		if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("ending container %s: %w", user.ID, err)
		}
	}
	var opts []containerd.DeleteOpts
	if agent {
		opts = append(opts, containerd.WithSnapshotCleanup)
	}
	if err := c.Delete(ctx, opts...); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("removing container %s: %w", user.ID, err)
	}
	return nil
}
