package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/brisk-project/brisk/internal/chroot"
	"github.com/brisk-project/brisk/internal/cli"
)

// globals are the flags every command understands.
type globals struct {
	verbose   bool
	plainHTTP bool
}

// logger writes to standard error, so that standard output stays parseable.
func (g *globals) logger() *slog.Logger {
	level := slog.LevelWarn
	if g.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// transfers returns the display of transfers on standard error: bars on a terminal, else a few
// lines now and then. With debug messages there are lines too, because they would break bars.
func (g *globals) transfers() *cli.Transfers {
	return cli.NewTransfers(cli.TransfersConfig{To: os.Stderr, Terminal: !g.verbose && term.IsTerminal(int(os.Stderr.Fd()))})
}

// progressTo returns where progress is drawn: the terminal on standard error, or
// nowhere if that is none.
func (g *globals) progressTo() io.Writer {
	if g.verbose || !term.IsTerminal(int(os.Stderr.Fd())) {
		return io.Discard
	}
	return os.Stderr
}

func newRootCommand() *cobra.Command {
	shared := &globals{}
	root := &cobra.Command{
		Use:   "brisk",
		Short: "Start containers before their image has arrived",
		Long: "Brisk adds a small index to an image. With it, an image is mounted immediately, and\n" +
			"blocks are loaded when they are read: from the local cache, from peers, or from the\n" +
			"registry.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	flags := root.PersistentFlags()
	flags.BoolVarP(&shared.verbose, "verbose", "v", false, "log debug messages to standard error")
	flags.BoolVar(&shared.plainHTTP, "plain-http", false, "use http instead of https for registries (always used on loopback)")
	root.AddCommand(
		newConvertCommand(shared),
		newCopyCommand(shared),
		newListCommand(shared),
		newRemoveCommand(shared),
		newCollectCommand(shared),
		newInspectCommand(shared),
		newVerifyCommand(shared),
		newSignCommand(shared),
		newMountCommand(shared),
		newUmountCommand(),
		newTraceCommand(shared),
		newPrefetchCommand(shared),
		newDemoCommand(shared),
		newContainerInitCommand(),
	)
	cli.AddVersion(root, nil)
	cli.AddDocs(root, "1")
	return root
}

// newContainerInitCommand is how package container finds its way back into this
// binary inside the new namespaces.
func newContainerInitCommand() *cobra.Command {
	return &cobra.Command{
		Use:    chroot.InitCommand,
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return chroot.Init(args[0]) },
	}
}
