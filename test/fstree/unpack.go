package fstree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/test/require"
)

// Unpack unpacks layers, uncompressed tars with the bottom one first, below the empty
// directory dir as containerd does with its overlayfs snapshotter, and takes the snapshot
// of the root filesystem that a container on these layers gets. A mount of the same
// layers has to equal it. Directories that the layers do not describe, but make or change,
// have the time of the unpacking; the snapshot's Since is set so that these times are not
// compared. Only root can do that.
func Unpack(ctx context.Context, dir string, layers [][]byte) (*Tree, error) {
	since := now()
	sn, err := overlay.NewSnapshotter(dir)
	if err != nil {
		return nil, fmt.Errorf("starting containerd's overlayfs snapshotter in %s: %w", dir, err)
	}
	tree, err := unpack(ctx, sn, filepath.Join(dir, "mounted"), layers)
	if err = errors.Join(err, sn.Close()); err != nil {
		return nil, err
	}
	tree.Since = since
	return tree, nil
}

// unpack makes a snapshot of each layer and mounts one on top of them on target.
func unpack(ctx context.Context, sn snapshots.Snapshotter, target string, layers [][]byte) (tree *Tree, err error) {
	parent := ""
	for i, layer := range layers {
		key := strconv.Itoa(i)
		mounts, err := sn.Prepare(ctx, "unpack "+key, parent)
		if err != nil {
			return nil, fmt.Errorf("preparing a snapshot for layer %d: %w", i, err)
		}
		blob := blob(layer)
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(layer), Size: int64(len(layer))}
		if _, err := apply.NewFileSystemApplier(blob).Apply(ctx, desc, mounts); err != nil {
			return nil, fmt.Errorf("unpacking layer %d: %w", i, err)
		}
		if err := sn.Commit(ctx, key, "unpack "+key); err != nil {
			return nil, fmt.Errorf("committing layer %d: %w", i, err)
		}
		parent = key
	}
	mounts, err := sn.Prepare(ctx, "container", parent)
	if err != nil {
		return nil, fmt.Errorf("preparing a snapshot for a container: %w", err)
	}
	if err := os.Mkdir(target, 0o700); err != nil {
		return nil, fmt.Errorf("making a mount point: %w", err)
	}
	if err := mount.All(mounts, target); err != nil {
		return nil, fmt.Errorf("mounting the layers: %w", err)
	}
	defer func() { err = errors.Join(err, mount.UnmountAll(target, 0)) }()
	return take(target, true)
}

// UnpackInto unpacks layers on top of each other into the empty directory dir, as
// containerd does with snapshotters that have no overlay, and takes its snapshot as
// [Unpack] does.
func UnpackInto(ctx context.Context, dir string, layers [][]byte) (*Tree, error) {
	since := now()
	for i, layer := range layers {
		if _, err := archive.Apply(ctx, dir, bytes.NewReader(layer)); err != nil {
			return nil, fmt.Errorf("unpacking layer %d into %s: %w", i, dir, err)
		}
	}
	tree, err := Take(dir)
	if err != nil {
		return nil, err
	}
	tree.Since = since
	return tree, nil
}

// now returns a time that no file made from now on has a time before: filesystems stamp
// with a clock that runs behind by as much as a tick.
func now() time.Time { return time.Now().Add(-time.Second) }

// blob is a content store with one object.
type blob []byte

// ReaderAt implements [content.Provider].
func (b blob) ReaderAt(context.Context, ocispec.Descriptor) (content.ReaderAt, error) {
	return reader{bytes.NewReader(b)}, nil
}

type reader struct{ *bytes.Reader }

func (reader) Close() error { return nil }

// TempDir returns an empty directory on a tmpfs of its own, which the end of the
// test unmounts. Unlike most disk filesystems a tmpfs holds extended attributes
// of any size, and it has ACLs. The test needs root.
func TempDir(tb testing.TB) string {
	tb.Helper()
	require.Root(tb)
	dir := tb.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		tb.Fatalf("mounting a tmpfs on %s: %v", dir, err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}
