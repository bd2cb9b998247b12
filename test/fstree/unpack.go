package fstree

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/test/require"
)

// Apply unpacks layers, uncompressed tars with the bottom one first, into the
// directory dir by containerd's own code. Only root can set owners and devices.
func Apply(ctx context.Context, dir string, layers [][]byte) error {
	for i, layer := range layers {
		if _, err := archive.Apply(ctx, dir, bytes.NewReader(layer)); err != nil {
			return fmt.Errorf("unpacking layer %d into %s: %w", i, dir, err)
		}
	}
	return nil
}

// Unpack applies layers to the empty directory dir and takes the snapshot that a
// mount of the same layers has to equal. Directories that the layers do not
// describe, but make or change, have the time of the unpacking; the snapshot's
// Since is set so that these times are not compared.
func Unpack(ctx context.Context, dir string, layers [][]byte) (*Tree, error) {
	// Filesystems stamp with a clock that runs behind by as much as a tick.
	since := time.Now().Add(-time.Second)
	if err := Apply(ctx, dir, layers); err != nil {
		return nil, err
	}
	tree, err := Take(dir)
	if err != nil {
		return nil, err
	}
	tree.Since = since
	return tree, nil
}

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
