package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/cmd/internal/agent"
	"github.com/brisk-project/brisk/cmd/internal/node"
	"github.com/brisk-project/brisk/cmd/internal/nodeconfig"
	"github.com/brisk-project/brisk/cmd/internal/ops"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/p2p"
)

func newRunCommand() *cobra.Command {
	opts := &options{}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Serve containerd until interrupted",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := opts.load(cmd.Flags())
			if err != nil {
				return err
			}
			return run(cmd.Context(), cfg, cmd.ErrOrStderr())
		},
	}
	opts.addTo(cmd)
	return cmd
}

func newConfigCommand() *cobra.Command {
	opts := &options{}
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the configuration that is in force",
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

func run(ctx context.Context, cfg nodeconfig.Config, stderr io.Writer) error {
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
	metrics, err := ops.NewRegistry()
	if err != nil {
		return err
	}
	client, err := registry.NewClient(registry.Config{
		PlainHTTP: func(host string) bool { return slices.Contains(cfg.Registry.PlainHTTP, host) },
		Logger:    log,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	list := p2p.NewList(peers...)
	a, err := agent.New(ctx, agent.Config{
		Node: node.Config{
			Dir: cfg.Directory, CacheBytes: int64(cfg.Cache.Size), MemoryBytes: int64(cfg.Cache.Memory),
			Backend: lazyfs.Backend(cfg.Mount.Backend), ReadTimeout: time.Duration(cfg.Mount.ReadTimeout),
			Registry: client, Listen: cfg.Peers.Listen, Members: list, Keeper: keeperStore(cfg.Keeper, log), Log: log, Metrics: metrics,
		},
		Socket: cfg.Socket, LookupTimeout: time.Duration(cfg.Snapshotter.LookupTimeout),
		FetchTimeout: time.Duration(cfg.Snapshotter.FetchTimeout), AsyncRemove: cfg.Snapshotter.AsyncRemove,
		Containerd: cfg.Containerd.Address, MinFree: int64(cfg.Cache.MinFree), Credentials: []string{"docker-config"},
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
	return serve(ctx, a, in, ops.Config{
		Address: cfg.HTTP.Address, Pprof: cfg.HTTP.Pprof, Gatherer: metrics, NotReady: a.NotReady, Logger: log,
	})
}

// serve runs the agent and what tells of it until ctx ends, the cluster too if there is
// one.
func serve(ctx context.Context, a *agent.Agent, in *cluster, look ops.Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	group.Go(func() error { defer cancel(); return a.Run(ctx) })
	if in != nil {
		group.Go(func() error { return in.Run(ctx) })
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
		if err := a.Answering(ctx); err != nil {
			return nil //nolint:nilerr // the agent has the error, or was told to end
		}
		// Without a service manager nothing is told.
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			look.Logger.WarnContext(ctx, "the service manager cannot be told that the agent is ready", "error", err)
		}
		<-ctx.Done()
		_, err := daemon.SdNotify(false, daemon.SdNotifyStopping)
		if err != nil {
			look.Logger.WarnContext(ctx, "the service manager cannot be told that the agent ends", "error", err)
		}
		return nil
	})
	return group.Wait()
}
