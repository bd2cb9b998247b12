package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/lazyfs/snapshotter"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/node/agent"
	nodeconfig "github.com/brisk-project/brisk/node/config"
	"github.com/brisk-project/brisk/node/ops"
	"github.com/brisk-project/brisk/node/pressure"
	"github.com/brisk-project/brisk/node/waterfall"
	"github.com/brisk-project/brisk/p2p"
)

func newRunCommand() *cobra.Command {
	opts := &options{}
	var readAhead int
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent until interrupted",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := opts.load(cmd.Flags())
			if err != nil {
				return err
			}
			return run(cmd.Context(), cfg, readAhead, cmd.ErrOrStderr())
		},
	}
	opts.addTo(cmd)
	// For benchmarks: nobody has to set it.
	const flag = "bundle-read-ahead"
	cmd.Flags().IntVar(&readAhead, flag, 0, "readahead window of images with a bundle in `bytes`, a multiple of 4096")
	cmd.Flag(flag).Hidden = true
	return cmd
}

func newConfigCommand() *cobra.Command {
	opts := &options{}
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the effective configuration",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := opts.load(cmd.Flags())
			if err != nil {
				return err
			}
			content, err := cfg.Marshal()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(content)
			return err
		},
	}
	opts.addTo(cmd)
	return cmd
}

// newLogger returns a logger. The configuration is valid.
func newLogger(cfg nodeconfig.Log, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return slog.New(slog.NewTextHandler(w, opts)), nil
}

// keeperStore returns what keeps descriptors while no process of this program runs, nil
// for nothing.
func keeperStore(cfg nodeconfig.Keeper, log *slog.Logger) keeper.Store {
	if cfg.Socket != "" {
		return keeper.NewClient(keeper.ClientConfig{Socket: cfg.Socket, Logger: log})
	}
	if systemd := keeper.FromEnvironment(os.Getenv, os.Getpid()); systemd != nil {
		return systemd
	}
	return nil
}

// spared returns how much of the disk the cache leaves to others: more than the node needs
// to be ready, which it then is whatever is cached.
func spared(minFree nodeconfig.Size) int64 { return int64(minFree + minFree/8) }

// share returns per cent as a part of one.
func share(percent int) float64 { return float64(percent) / 100 }

func run(ctx context.Context, cfg nodeconfig.Config, bundleReadAhead int, stderr io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("mounting needs root")
	}
	log, err := newLogger(cfg.Log, stderr)
	if err != nil {
		return err
	}
	peers, err := p2p.ParsePeers(cfg.Peers.Members)
	if err != nil {
		return fmt.Errorf("peers.members: %w", err)
	}
	if cfg.Process.MemoryLimit > 0 {
		debug.SetMemoryLimit(int64(cfg.Process.MemoryLimit + cfg.Cache.Memory))
	}
	metrics, err := ops.NewRegistry()
	if err != nil {
		return err
	}
	starts := waterfall.New(nil)
	known, err := newRegistries(ctx, &cfg, log, metrics, starts)
	if err != nil {
		return err
	}
	defer known.close()
	list := p2p.NewList(peers...)
	a, err := agent.New(ctx, agent.Config{
		Node: node.Config{
			Dir: cfg.Directory, CacheBytes: int64(cfg.Cache.Size), MemoryBytes: int64(cfg.Cache.Memory),
			CacheFiles: cfg.Cache.Inodes, CacheHighWater: share(cfg.Cache.HighWater), CacheLowWater: share(cfg.Cache.LowWater), CacheMinFree: spared(cfg.Cache.MinFree),
			ScrubInterval: time.Duration(cfg.Cache.Scrub.Interval),
			Backend:       lazyfs.Backend(cfg.Mount.Backend), ReadTimeout: time.Duration(cfg.Mount.ReadTimeout),
			Registry: known.client, Listen: cfg.Peers.Listen, Members: list, Keeper: keeperStore(cfg.Keeper, log), StartRecorder: starts, BundleReadAhead: bundleReadAhead, Log: log, Metrics: metrics,
		},
		Mode: agent.Mode(cfg.Snapshotter.Mode), WriteIndexes: cfg.Snapshotter.WriteIndexes,
		Socket: cfg.Socket, LookupTimeout: time.Duration(cfg.Snapshotter.LookupTimeout),
		FetchTimeout: time.Duration(cfg.Snapshotter.FetchTimeout), AsyncRemove: cfg.Snapshotter.AsyncRemove,
		Idle: snapshotter.IdleMounts{Max: int(cfg.Snapshotter.IdleMounts), Timeout: time.Duration(cfg.Snapshotter.IdleTime)}, Pressure: pressure.Config{Logger: log}.Watch,
		Containerd: cfg.Containerd.Address, MinFree: int64(cfg.Cache.MinFree),
		WatchTrust:  known.watchTrust,
		Credentials: known.names, Repositories: known.store.Status,
	})
	if err != nil {
		return err
	}
	var in *cluster
	if cfg.Kubernetes.Enabled {
		in, err = newCluster(clusterConfig{
			settings: cfg, agent: a, members: list, configured: peers, log: log, metrics: metrics,
		})
		if err != nil {
			return errors.Join(err, a.Close())
		}
	}
	return serve(ctx, a, known, in, ops.Config{
		Address: cfg.HTTP.Address, Pprof: cfg.HTTP.Pprof, Gatherer: metrics, NotReady: a.NotReady, Logger: log,
	})
}

// serve runs the agent, what it has its credentials from, the cluster if there is one,
// and what tells of it until ctx ends.
func serve(ctx context.Context, a *agent.Agent, known *registries, in *cluster, look ops.Config) error {
	// What is learned up to the last moment is kept, too.
	lasting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	kept := make(chan error, 1)
	go func() { kept <- known.store.Run(lasting) }()
	err := serveAll(ctx, a, known, in, look)
	stop()
	return errors.Join(err, <-kept)
}

func serveAll(ctx context.Context, a *agent.Agent, known *registries, in *cluster, look ops.Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	group.Go(func() error { defer cancel(); return a.Run(ctx) })
	if in != nil {
		group.Go(func() error { return in.Run(ctx) })
	}
	if known.proxy != nil {
		group.Go(func() error { known.serveKubelet(ctx); return nil })
	}
	if look.Address != "" {
		group.Go(func() error {
			// Containers can do without, as when somebody else has the port.
			if err := ops.New(look).Run(ctx); err != nil {
				look.Logger.ErrorContext(ctx, "metrics and health are not served", "error", err)
			}
			return nil
		})
	}
	group.Go(func() error {
		if err := a.AwaitReady(ctx); err != nil {
			return nil //nolint:nilerr // the agent has the error, or was told to end
		}
		// Without a service manager nothing is told.
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			look.Logger.WarnContext(ctx, "the service manager cannot be notified that the agent is ready", "error", err)
		}
		<-ctx.Done()
		_, err := daemon.SdNotify(false, daemon.SdNotifyStopping)
		if err != nil {
			look.Logger.WarnContext(ctx, "the service manager cannot be notified of the end of the agent", "error", err)
		}
		return nil
	})
	return group.Wait()
}
