package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	nodeconfig "github.com/brisk-project/brisk/node/config"
	"github.com/brisk-project/brisk/node/host/rollout"
)

func newDeployCommand() *cobra.Command {
	cfg := rollout.Config{Machine: rollout.Machine{PID: 1}}
	var ready bool
	cmd := &cobra.Command{
		Use:   "deploy",
		Short: "Install the agent on the machine of this pod, and renew its credentials",
		Long: `Install the agent on the machine of this pod, and renew its credentials.

The pod must use the PID namespace of the machine. The command copies this program, which
must be static, to the machine and runs "brisk-node install" there. With credentials the
agent reports to the cluster as the node given by NODE_NAME and NODE_IP. The agent outlives
the pod. To remove it, run "brisk-node uninstall" on the machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ready {
				return askReady(cmd, cfg.Settings)
			}
			log, err := newLogger(nodeconfig.Default().Log, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if cfg.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("finding this program: %w", err)
			}
			if cfg.Credentials != "" && cfg.Server == "" {
				if cfg.Server, err = rollout.Server(os.Getenv); err != nil {
					return err
				}
			}
			cfg.Node, cfg.Address = os.Getenv("NODE_NAME"), os.Getenv("NODE_IP")
			cfg.Out, cfg.Log = cmd.OutOrStdout(), log
			return rollout.New(cfg).Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Directory, "directory", "/opt/brisk/bin", "directory on the machine for the program")
	f.StringVar(&cfg.Settings, "settings", nodeconfig.DefaultPath, "configuration file of the agent, in the pod")
	f.StringVar(&cfg.Credentials, "credentials", "", "directory in the pod with the files token and ca.crt, for access to the cluster")
	f.StringVar(&cfg.Server, "server", "", "address of the API server (default: from the environment of the pod)")
	f.BoolVar(&ready, "ready", false, "only check whether the agent is ready; the exit code is the result")
	return cmd
}

// askReady asks the agent whether it is ready.
func askReady(cmd *cobra.Command, settings string) error {
	cfg, err := nodeconfig.Load(settings)
	if err != nil {
		return err
	}
	if cfg.HTTP.Address == "" {
		return nil // it says nothing of itself
	}
	req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, "http://"+cfg.HTTP.Address+"/readyz", http.NoBody)
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New("the agent is not ready")
	}
	return nil
}
