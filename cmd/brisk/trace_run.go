package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/internal/units"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/record"
	"github.com/brisk-project/brisk/node/waterfall"
)

type recordOptions struct {
	*globals
	until    []string
	env      []string
	net      string
	output   string
	draw     string
	push     bool
	platform string
	dir      string
	backend  string
}

// addRecord makes a command record an image.
func addRecord(cmd *cobra.Command, shared *globals) {
	opts := &recordOptions{globals: shared}
	cmd.Use = "trace IMAGE [-- COMMAND ARG...]"
	cmd.Args = cobra.MinimumNArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dash := cmd.ArgsLenAtDash(); dash < 0 && len(args) > 1 || dash >= 0 && dash != 1 {
			return fmt.Errorf("unknown argument %q: write the command to run after \"--\"", args[min(1, len(args)-1)])
		}
		report := cmd.OutOrStdout()
		if opts.output == "-" {
			report = cmd.ErrOrStderr() // standard output is for the trace
		}
		return opts.run(cmd.Context(), cmd.OutOrStdout(), report, args[0], args[1:])
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&opts.until, "until", nil,
		"end of the start: port, port:NUMBER, log:REGEXP, exit, or a time such as 30s; repeat the flag for several (default port, exit, 30s)")
	flags.StringArrayVar(&opts.env, "env", nil, "environment variable for the program, NAME=VALUE; repeat the flag for several")
	flags.StringVar(&opts.net, "net", "host", "network of the program: host, or none (only loopback)")
	flags.StringVarP(&opts.output, "output", "o", "", "write the trace to this file")
	flags.StringVar(&opts.draw, "draw", "", "write a picture of what the start waited for to this file, which ends with .svg or .html")
	flags.BoolVar(&opts.push, "push", false, "push the trace beside the image")
	flags.StringVar(&opts.platform, "platform", "", "platform of a multi-platform image, such as linux/arm64 (default: this machine's)")
	flags.StringVar(&opts.dir, "dir", defaultDir, "working directory, not on an overlay filesystem; it is left empty")
	flags.StringVar(&opts.backend, "backend", "", "force a mount backend: erofs, loop or tree (default: the first that works)")
}

func (o *recordOptions) run(ctx context.Context, out, report io.Writer, image string, args []string) (err error) {
	cfg, err := o.config(image, args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("mounting needs root")
	}
	if o.draw != "" {
		cfg.Starts = waterfall.New(nil)
	}
	if cfg.Registry, err = o.mountClient(node.RecordExchange(cfg.Starts)); err != nil {
		return err
	}
	defer cfg.Registry.Close()
	recorded, err := record.Run(ctx, cfg)
	if err != nil {
		return err
	}
	read := recorded.File.Trace
	if _, err := fmt.Fprintf(report, "recorded %s of %s in %s, until %s: %s\n", units.Size(read.Bytes()), image,
		recorded.Took.Round(time.Millisecond), recorded.Ended, recorded.File.Command); err != nil {
		return err
	}
	if o.draw != "" {
		if err := waterfall.WriteChart(o.draw, recorded.Start); err != nil {
			return err
		}
	}
	if o.output != "" {
		if err := writeTraceFile(out, o.output, recorded.File); err != nil {
			return err
		}
	}
	if o.push {
		return pushRecorded(ctx, report, cfg.Registry, recorded)
	}
	return nil
}

func (o *recordOptions) config(image string, args []string) (cfg record.Config, err error) {
	cfg = record.Config{
		Image: image, Args: args, Env: o.env, Dir: o.dir, Backend: lazyfs.Backend(o.backend), Output: os.Stderr, Log: o.logger(),
	}
	if o.output == "" && !o.push && o.draw == "" {
		return cfg, errors.New("nowhere to store the trace: use -o FILE or --push")
	}
	if o.draw != "" {
		if err := waterfall.CheckChartName(o.draw); err != nil {
			return cfg, err
		}
	}
	switch o.net {
	case "host":
	case "none":
		cfg.Isolated = true
	default:
		return cfg, fmt.Errorf("--net %q: use host or none", o.net)
	}
	if cfg.Platform, err = parsePlatform(o.platform); err != nil {
		return cfg, err
	}
	cfg.Until = record.DefaultUntil()
	if len(o.until) > 0 {
		cfg.Until = nil
	}
	for _, text := range o.until {
		until, err := record.ParseUntil(text)
		if err != nil {
			return cfg, fmt.Errorf("--until: %w", err)
		}
		cfg.Until = append(cfg.Until, until)
	}
	return cfg, nil
}

// pushRecorded pushes a trace beside those of other commands.
func pushRecorded(ctx context.Context, out io.Writer, client *registry.Client, recorded *record.Recording) error {
	found, err := client.FindArtifact(ctx, recorded.Image)
	if err != nil {
		return err
	}
	pushed, err := artifact.Push(ctx, client, recorded.Image, found.Startup, artifact.Config{
		Files: []startup.File{recorded.File}, Now: time.Now(),
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "pushed %s\n", pushed.Digest)
	return err
}
