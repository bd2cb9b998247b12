// Command brisk-keeper keeps mounts while brisk-node is away: it holds the descriptors of
// their FUSE connections, and nothing else. It is to be started before brisk-node and
// to be left alone when brisk-node is replaced. Under systemd, whose descriptor store
// does the same, it is not needed.
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
	socket := flag.String("socket", "/run/brisk/keeper.sock", "where brisk-node finds the keeper")
	patience := flag.Duration("patience", keeper.DefaultPatience, "how long readers wait for brisk-node before they get an error")
	sessions := flag.Int("max-sessions", keeper.DefaultMaxSessions, "how many connections are kept at most")
	showVersion := flag.Bool("version", false, "print the version, and what it was built from")
	flag.Parse()
	if *showVersion || flag.Arg(0) == "version" {
		return version.Of("brisk-keeper").Write(os.Stdout)
	}
	k, err := keeper.New(keeper.Config{
		Socket: *socket, Patience: *patience, MaxSessions: *sessions,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return k.Run(ctx)
}
