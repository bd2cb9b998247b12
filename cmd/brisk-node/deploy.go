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
		Short: "Install the agent on the machine of this pod, and keep its credentials fresh",
		Long: `Install the agent on the machine of this pod, and keep its credentials fresh.

The pod has to share the process numbers of the machine. This program, which must be a
static one, is copied there and installs itself: "brisk-node install". With credentials the agent
reports to the cluster as the node that NODE_NAME and NODE_IP name. The agent stays
when the pod goes; "brisk-node uninstall" on the machine removes it.`,
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
	f.StringVar(&cfg.Directory, "directory", "/opt/brisk/bin", "where on the machine the program goes")
	f.StringVar(&cfg.Settings, "settings", nodeconfig.DefaultPath, "configuration file of the agent, in the pod")
	f.StringVar(&cfg.Credentials, "credentials", "", "directory in the pod with the files token and ca.crt, for the agent to reach the cluster")
	f.StringVar(&cfg.Server, "server", "", "address of the API server (default: as the environment of pods says)")
	f.BoolVar(&ready, "ready", false, "only say whether the agent is ready, by the exit code")
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
