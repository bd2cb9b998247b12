package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/bench"
	"github.com/brisk-project/brisk/internal/cli"
)

type demoOptions struct {
	*globals
	image string
	args  []string
	rate  cli.Rate
	nodes int
	size  string
	dir   string
	node  []string
	check bool
}

func newDemoCommand(shared *globals) *cobra.Command {
	opts := &demoOptions{globals: shared, rate: 200_000_000}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Measure a plain pull beside lazy nodes that share blocks",
		Long: "Start one image four times over a link of limited rate, counted from the moment it is\n" +
			"asked for: pulled and unpacked whole, then lazily on three nodes, one after the other.\n" +
			"The image is made of this machine's Go toolchain and builds and runs a program, unless\n" +
			"--image names another, which is copied to the demo's own registry first.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return opts.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.image, "image", "", "use this image of any registry")
	flags.StringArrayVar(&opts.args, "cmd", nil, "run this in place of the image's command; repeat for each argument")
	flags.Var(&opts.rate, "rate", "rate of the link, limited at the registry; 0 is unlimited")
	flags.IntVar(&opts.nodes, "nodes", 3, "how many nodes start the image lazily")
	flags.StringVar(&opts.size, "size", "full", "full or small: how much of the Go toolchain the image holds")
	flags.StringVar(&opts.dir, "dir", "", "where to work, not on an overlay filesystem (default: a temporary directory)")
	flags.StringArrayVar(&opts.node, "node-flag", nil, "a flag for each node's \"brisk mount\", such as --backend=tree")
	flags.BoolVar(&opts.check, "check", false, "fail unless lazy was faster than plain and peers spared the registry")
	return cmd
}

func (o *demoOptions) run(ctx context.Context, out io.Writer) (err error) {
	switch {
	case o.size != "full" && o.size != "small":
		return fmt.Errorf("--size %q is neither full nor small", o.size)
	case o.nodes < 1:
		return errors.New("--nodes must be at least 1")
	}
	dir, err := os.MkdirTemp(o.dir, "brisk-demo-")
	if err != nil {
		return fmt.Errorf("making a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	report, err := bench.Demo(ctx, bench.DemoConfig{
		Image: o.image, Args: o.args, BitsPerSecond: int64(o.rate), Nodes: o.nodes, Small: o.size == "small",
		NodeFlags: o.node, Dir: dir, Out: out, Programs: os.Stderr, PlainHTTP: o.plainHTTP, Log: o.logger(),
	})
	if err != nil || !o.check {
		return err
	}
	return report.Check()
}
