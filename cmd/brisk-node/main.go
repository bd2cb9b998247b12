// Command brisk-node is what runs on every node: it keeps the snapshots of containerd,
// and loads images that have an index while their containers run.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "brisk-node:", err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "brisk-node",
		Short:         "Node agent: start containers before their image has arrived",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newRunCommand(), newConfigCommand(), newStatusCommand(), newWhyCommand(), newScrubCommand(), newDoctorCommand(),
		newInstallCommand(), newUninstallCommand(), newDeployCommand())
	cli.AddVersion(root, func(info *version.Info) { info.Kernel = kernelRelease() })
	cli.AddDocs(root, "8")
	return root
}

// kernelRelease returns the release of the running kernel, empty if that is not known.
func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
