package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/node"
)

func newUmountCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "umount DIR",
		Short: "Unmount an image and leave nothing behind but the cache",
		Args:  cobra.ExactArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return umount(cmd.Context(), dir, args[0]) },
	}
	cmd.Flags().StringVar(&dir, "dir", defaultDir, "directory given to \"brisk mount\"")
	return cmd
}

func umount(ctx context.Context, dir, target string) error {
	target, err := filepath.Abs(target)
	if err != nil {
		return fmt.Errorf("finding %s: %w", target, err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("finding --dir: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, unmountTimeout)
	defer cancel()
	err = node.Client{Dir: dir}.Unmount(ctx, target)
	if errors.Is(err, node.ErrNoNode) {
		return fmt.Errorf("%w; pass the --dir that \"brisk mount\" used, or, if that process died, run \"umount -l %s\"", err, target)
	}
	return err
}
