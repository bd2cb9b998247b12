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
	serve string
}

func newDemoCommand(shared *globals) *cobra.Command {
	opts := &demoOptions{globals: shared, rate: 200_000_000}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Compare a plain pull with lazy nodes that share blocks",
		Long: "Start one image four times over a link of limited rate, and measure the time from the\n" +
			"request: first pulled and unpacked, then lazily on three nodes, one after the other.\n" +
			"The image contains the Go toolchain of this machine, and builds and runs a program.\n" +
			"--image uses another image, which is first copied to the registry of the demo.\n\n" +
			"With --serve, measure nothing: serve the image from a registry on this machine until\n" +
			"interrupted, to try other commands. This needs no root. What is pushed is lost at the end.",
		Example: "  brisk demo\n" +
			"  brisk demo --serve 127.0.0.1:5000 --size small",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return opts.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.image, "image", "", "image to use, from any registry")
	flags.StringArrayVar(&opts.args, "cmd", nil, "command to run instead of the command of the image; repeat the flag for each argument")
	flags.Var(&opts.rate, "rate", "rate of the link to the registry; 0 means unlimited")
	flags.IntVar(&opts.nodes, "nodes", 3, "number of nodes that start the image lazily")
	flags.StringVar(&opts.size, "size", "full", "full or small: part of the Go toolchain in the image")
	flags.StringVar(&opts.dir, "dir", "", "working directory, not on an overlay filesystem (default: a temporary directory)")
	flags.StringArrayVar(&opts.node, "node-flag", nil, "flag for \"brisk mount\" of each node, such as --backend=tree")
	flags.BoolVar(&opts.check, "check", false, "fail unless lazy is faster than plain and peers reduce registry traffic")
	flags.StringVar(&opts.serve, "serve", "", "only serve the image from a registry on this address")
	for _, other := range []string{"cmd", "rate", "nodes", "node-flag", "check"} {
		cmd.MarkFlagsMutuallyExclusive("serve", other)
	}
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
	cfg := bench.DemoConfig{
		Image: o.image, Args: o.args, BitsPerSecond: int64(o.rate), Nodes: o.nodes, Small: o.size == "small",
		NodeFlags: o.node, Dir: dir, Out: out, Programs: os.Stderr, PlainHTTP: o.plainHTTP, Log: o.logger(),
	}
	if o.serve != "" {
		return bench.Serve(ctx, cfg, o.serve)
	}
	report, err := bench.Demo(ctx, cfg)
	if err != nil || !o.check {
		return err
	}
	return report.Check()
}
