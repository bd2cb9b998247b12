package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
)

func newUmountCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "umount DIR",
		Short: "Unmount an image and keep only the cache",
		Long: "Unmount an image that \"brisk mount\" has mounted. The process that serves it ends with its\n" +
			"last mount; the mount table says which process that is. If the process has died, its\n" +
			"mount is removed.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return umount(cmd.Context(), cmd.ErrOrStderr(), dir, args[0])
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "the --dir of \"brisk mount\" (default: from the mount table)")
	return cmd
}

func umount(ctx context.Context, messages io.Writer, dir, target string) error {
	target, err := lazyfs.ResolveTarget(target)
	if err != nil {
		return err
	}
	found, notFound := node.FindDir(target)
	switch {
	case dir != "":
		if dir, err = filepath.Abs(dir); err != nil {
			return fmt.Errorf("finding --dir: %w", err)
		}
	case notFound != nil:
		return notFound
	default:
		dir = found
	}
	ctx, cancel := context.WithTimeout(ctx, unmountTimeout)
	defer cancel()
	err = node.Client{Dir: dir}.Unmount(ctx, target)
	switch {
	case !errors.Is(err, node.ErrNoNode):
		return err
	case found != dir:
		return fmt.Errorf("%w; pass the --dir that \"brisk mount\" used", err)
	}
	if err := node.UnmountStale(ctx, dir, target); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(messages, "%v any more; unmounted what it had left on %s\n", err, target); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	return nil
}
