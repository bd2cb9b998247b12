// Command brisk-scheduler is kube-scheduler with the plugin BlockLocality, which places pods where the
// blocks of their images are, and with gang scheduling (Coscheduling). It has the flags and the
// configuration file of kube-scheduler; deploy/scheduler holds such files.
package main

import (
	"os"

	"github.com/spf13/cobra"
	basecli "k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register" // the log format json
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of requests to the API server
	_ "k8s.io/component-base/metrics/prometheus/version"  // metric of the version
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	_ "sigs.k8s.io/scheduler-plugins/apis/config/scheme" // the arguments of Coscheduling
	"sigs.k8s.io/scheduler-plugins/pkg/coscheduling"

	_ "github.com/brisk-project/brisk/api/config/scheme" // the arguments of BlockLocality
	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/version"
	"github.com/brisk-project/brisk/scheduler"
)

func main() { os.Exit(basecli.Run(newCommand())) }

func newCommand() *cobra.Command {
	command := app.NewSchedulerCommand(
		app.WithPlugin(scheduler.Name, scheduler.Factory(legacyregistry.Registerer())),
		app.WithPlugin(coscheduling.Name, coscheduling.New),
	)
	command.Use = "brisk-scheduler"
	command.Short = "Place pods where the blocks of their images are"
	// kube-scheduler has a flag --version of its own, which prints that of Kubernetes.
	run := command.RunE
	command.RunE = func(cmd *cobra.Command, args []string) error {
		if asked := cmd.Flags().Lookup("version"); asked != nil && asked.Changed && asked.Value.String() != "false" {
			return version.Of(command.Name()).Write(cmd.OutOrStdout())
		}
		return run(cmd, args)
	}
	command.AddCommand(cli.NewVersionCommand(version.Of(command.Name())))
	return command
}
