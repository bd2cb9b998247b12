// Command brisk-keeper keeps mounts while brisk-node is down: it holds the descriptors of
// their FUSE connections, and does nothing else. Start it before brisk-node, and do not
// restart it together with brisk-node. systemd does not need it: its descriptor store has
// the same function.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/brisk-project/brisk/internal/version"
	"github.com/brisk-project/brisk/lazyfs/keeper"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "brisk-keeper:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	socket := flag.String("socket", "/run/brisk/keeper.sock", "socket of the keeper, for brisk-node")
	patience := flag.Duration("patience", keeper.DefaultWaitTimeout, "time that readers wait for brisk-node before they get an error")
	sessions := flag.Int("max-sessions", keeper.DefaultMaxSessions, "maximum number of connections")
	showVersion := flag.Bool("version", false, "print version and build")
	flag.Parse()
	if *showVersion || flag.Arg(0) == "version" {
		return version.Of("brisk-keeper").Write(os.Stdout)
	}
	k, err := keeper.New(keeper.Config{
		Socket: *socket, WaitTimeout: *patience, MaxSessions: *sessions,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return k.Run(ctx)
}
