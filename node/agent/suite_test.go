package agent_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/errdefs"

	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// The suite knows some snapshotters by name, and what kind of mounts they make.
const suiteName = "overlayfs"

func TestSuite(t *testing.T) {
	require.FUSE(t)
	testsuite.SnapshotterSuite(t, suiteName, func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		a := start(t, filepath.Join(root, "brisk"), nil)
		return a, func() error { a.stop(); return nil }, nil
	})
}

// TestSuiteOnLazy runs the suite with an empty lazy snapshot below everything.
func TestSuiteOnLazy(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "empty:v1", true, registrytest.Layer{Tar: registrytest.Tar(t, registrytest.File{Name: "./"})})
	testsuite.SnapshotterSuite(t, suiteName, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		a := start(t, filepath.Join(root, "brisk"), nil)
		_, err := a.Prepare(ctx, "unpack", "", snapshots.WithLabels(image.labels(0)))
		if !errdefs.IsAlreadyExists(err) {
			t.Errorf("the base is not lazy: %v", err)
		}
		return onLazy{a, image.chain[0].String()}, func() error { a.stop(); return nil }, nil
	})
}

// onLazy puts a snapshot below all those that have no parent, and hides it.
type onLazy struct {
	snapshots.Snapshotter
	base string
}

func (s onLazy) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.Snapshotter.Prepare(ctx, key, s.below(parent), opts...)
}

func (s onLazy) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.Snapshotter.View(ctx, key, s.below(parent), opts...)
}

func (s onLazy) below(parent string) string {
	if parent == "" {
		return s.base
	}
	return parent
}

func (s onLazy) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	info, err := s.Snapshotter.Stat(ctx, key)
	return s.hide(info), err
}

func (s onLazy) Update(ctx context.Context, info snapshots.Info, fields ...string) (snapshots.Info, error) {
	info, err := s.Snapshotter.Update(ctx, info, fields...)
	return s.hide(info), err
}

func (s onLazy) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	for i, filter := range filters {
		filters[i] = strings.ReplaceAll(filter, `parent!=""`, `parent!="`+s.base+`"`)
	}
	return s.Snapshotter.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		if info.Name == s.base {
			return nil
		}
		return fn(ctx, s.hide(info))
	}, filters...)
}

func (s onLazy) hide(info snapshots.Info) snapshots.Info {
	if info.Parent == s.base {
		info.Parent = ""
	}
	return info
}
