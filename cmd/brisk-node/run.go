package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/brisk-project/brisk/cmd/internal/agent"
	"github.com/brisk-project/brisk/cmd/internal/node"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/p2p"
)

const (
	defaultDir    = "/var/lib/brisk"
	defaultSocket = "/run/brisk/snapshotter.sock"
)

type runOptions struct {
	dir           string
	socket        string
	cacheBytes    int64
	memoryBytes   int64
	backend       string
	readTimeout   time.Duration
	lookupTimeout time.Duration
	fetchTimeout  time.Duration
	asyncRemove   bool
	plainHTTP     []string
	listen        []string
	peers         []string
	keeper        string
	verbose       bool
}

func newRunCommand() *cobra.Command {
	opts := &runOptions{}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Serve containerd until interrupted",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return opts.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.dir, "dir", defaultDir, "directory for the cache and all state, not on an overlay filesystem")
	flags.StringVar(&opts.socket, "socket", defaultSocket, "socket that containerd finds the snapshotter under")
	flags.Int64Var(&opts.cacheBytes, "cache-bytes", 20<<30, "bound of the disk cache in bytes")
	flags.Int64Var(&opts.memoryBytes, "memory-bytes", 32<<20, "bound of the memory cache in bytes")
	flags.StringVar(&opts.backend, "backend", "", "force a mount backend: erofs, loop or tree (default: the first that works)")
	flags.DurationVar(&opts.readTimeout, "read-timeout", 30*time.Second, "how long a read may wait before it fails with EIO")
	flags.DurationVar(&opts.lookupTimeout, "lookup-timeout", time.Second, "how long a pull may wait for the answer whether its image has an index")
	flags.DurationVar(&opts.fetchTimeout, "fetch-timeout", 20*time.Second, "how long a pull may wait for an index that is there")
	flags.BoolVar(&opts.asyncRemove, "async-remove", false, "leave the files of removed snapshots to the next clean-up of containerd")
	flags.StringSliceVar(&opts.plainHTTP, "plain-http", nil, "speak http instead of https to this registry, given as host:port (always done on loopback)")
	flags.StringSliceVar(&opts.listen, "listen", nil, "serve blocks to peers on this address, such as /ip4/0.0.0.0/tcp/4077")
	flags.StringSliceVar(&opts.peers, "peer", nil, "a member of the cluster: peerID@/ip4/.../tcp/...")
	flags.StringVar(&opts.keeper, "keeper", "", "socket of brisk-keeper, which keeps mounts while this program is away (systemd's descriptor store is found by itself)")
	flags.BoolVarP(&opts.verbose, "verbose", "v", false, "log what is being done")
	return cmd
}

// store returns what keeps descriptors while no process of this program runs, nil for
// nothing.
func (o *runOptions) store(log *slog.Logger) keeper.Store {
	if o.keeper != "" {
		return keeper.NewClient(keeper.ClientConfig{Socket: o.keeper, Logger: log})
	}
	if systemd := keeper.FromEnvironment(os.Getenv, os.Getpid()); systemd != nil {
		return systemd
	}
	return nil
}

func (o *runOptions) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("mounting needs root")
	}
	level := slog.LevelInfo
	if o.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return fmt.Errorf("finding --dir: %w", err)
	}
	peers, err := p2p.ParsePeers(o.peers)
	if err != nil {
		return err
	}
	client, err := registry.NewClient(registry.Config{
		PlainHTTP: func(host string) bool { return slices.Contains(o.plainHTTP, host) }, Logger: log,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	a, err := agent.New(ctx, agent.Config{
		Node: node.Config{
			Dir: dir, CacheBytes: o.cacheBytes, MemoryBytes: o.memoryBytes, Backend: lazyfs.Backend(o.backend),
			ReadTimeout: o.readTimeout, Registry: client, Listen: o.listen, Peers: peers, Keeper: o.store(log), Log: log,
		},
		Socket: o.socket, LookupTimeout: o.lookupTimeout, FetchTimeout: o.fetchTimeout, AsyncRemove: o.asyncRemove,
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}
