package node

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/brisk-project/brisk/lazyfs"
)

// stateName is the directory of package lazyfs in that of a node.
const stateName = "mounts"

// FindDir returns the directory of the node that has mounted an image on target, an absolute
// path without symbolic links, be the node alive or not. The error wraps
// [lazyfs.ErrNotMounted] if there is no such mount.
func FindDir(target string) (string, error) {
	state, err := lazyfs.FindState(target)
	if err != nil {
		return "", err
	}
	if filepath.Base(state) != stateName {
		return "", fmt.Errorf("%s is %w of a node, but of %s", target, lazyfs.ErrNotMounted, state)
	}
	return filepath.Dir(state), nil
}

// UnmountStale unmounts what a node that is not alive any more has left mounted on target.
func UnmountStale(ctx context.Context, dir, target string) error {
	return lazyfs.UnmountStale(ctx, filepath.Join(dir, stateName), target)
}
