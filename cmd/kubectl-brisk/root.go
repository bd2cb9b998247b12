package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/scheduler/clusterview"
)

// options are the flags of every command.
type options struct {
	*genericclioptions.ConfigFlags

	format string
	watch  bool
}

func newRootCommand() *cobra.Command {
	opts := &options{ConfigFlags: genericclioptions.NewConfigFlags(true)}
	root := &cobra.Command{
		Use:           "kubectl-brisk",
		Short:         "Show where images are warm, and why a pod was placed on a node",
		SilenceUsage:  true,
		SilenceErrors: true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl brisk"},
	}
	flags := root.PersistentFlags()
	opts.AddFlags(flags)
	flags.StringVarP(&opts.format, "output", "o", cli.Text, "format: "+strings.Join(formats(), ", "))
	//nolint:errcheck,gosec // fails without that flag only
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats(), cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(opts.newNodesCommand(), opts.newImagesCommand(), opts.newWhyCommand(), opts.newTopCommand())
	cli.AddVersion(root, nil)
	cli.AddDocs(root, "1")
	return root
}

// connect returns what reaches the cluster that the flags name.
func (o *options) connect() (*clusterview.Clients, error) {
	config, err := o.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	config.UserAgent = "kubectl-brisk"
	return clusterview.NewClients(config)
}
