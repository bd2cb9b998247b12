package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/brisk-project/brisk/node/agent"
	nodeconfig "github.com/brisk-project/brisk/node/config"
	"github.com/brisk-project/brisk/node/host/containerdconfig"
	"github.com/brisk-project/brisk/node/host/install"
)

// snapshotterName is what containerd calls the snapshotter.
const snapshotterName = "brisk"

// installOptions are the flags of what installs and uninstalls.
type installOptions struct {
	options

	version    string
	main       string
	dropIn     string
	containerd string
	service    string
	unit       string
	systemd    bool
	skipLost   bool
	dryRun     bool
}

func (o *installOptions) addTo(cmd *cobra.Command) {
	o.addPlacesTo(cmd)
	f := cmd.Flags()
	o.addContainerdTo(f)
	f.StringVar(&o.service, "containerd-service", "containerd", "name of the containerd service")
	f.StringVar(&o.unit, "unit", install.DefaultUnit, "path of the unit file of the agent")
	_, err := os.Stat("/run/systemd/system")
	f.BoolVar(&o.systemd, "systemd", err == nil, "write a systemd unit, and start, restart and stop services")
	f.Lookup("systemd").DefValue = "whether systemd runs here" // for the help, which is the same on all machines
	f.BoolVar(&o.dryRun, "dry-run", false, "print all changes and make none")
}

// addContainerdTo adds the flags that say where the parts of containerd are.
func (o *installOptions) addContainerdTo(f *pflag.FlagSet) {
	f.StringVar(&o.version, "containerd-version", "", "version of containerd, if it does not run")
	f.StringVar(&o.main, "containerd-config", containerdconfig.DefaultMain, "main configuration file of containerd")
	f.StringVar(&o.dropIn, "containerd-drop-in", containerdconfig.DefaultDropIn, "drop-in configuration file for containerd 2")
	f.StringVar(&o.containerd, "containerd-program", "containerd", "containerd program, used to validate the configuration")
}

// target says what containerd is to be configured for.
func (o *installOptions) target(cfg nodeconfig.Config) (containerdconfig.Target, error) {
	target := containerdconfig.Target{
		Name: snapshotterName, Socket: cfg.Socket, Dir: cfg.Directory, Main: o.main, DropIn: o.dropIn,
	}
	var err error
	if o.version != "" {
		target.Version, err = containerdconfig.ParseVersion(o.version)
	}
	for _, path := range []string{o.main, o.dropIn} {
		if !filepath.IsAbs(path) {
			err = errors.Join(err, fmt.Errorf("%q is not an absolute path", path))
		}
	}
	return target, err
}

// installer returns what installs, or with removing what uninstalls: to do that it is
// enough to have any configuration.
func (o *installOptions) installer(cmd *cobra.Command, removing bool) (*install.Installer, error) {
	// The file may be one that is made now.
	if _, err := os.Stat(o.where()); errors.Is(err, fs.ErrNotExist) {
		o.missing = true
	}
	cfg, err := o.load(cmd.Flags())
	if err != nil && removing {
		cmd.PrintErrln("going on with the flags and the defaults:", err)
		cfg, err = nodeconfig.Default(), nil
		o.overlay(cmd.Flags(), &cfg)
	}
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 && !o.dryRun {
		return nil, errors.New("this needs root; --dry-run does not")
	}
	target, err := o.target(cfg)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	path := o.where()
	if path, err = filepath.Abs(path); err != nil {
		return nil, fmt.Errorf("finding --config: %w", err)
	}
	var settings []byte
	if !removing {
		if settings, err = o.settings(cfg, path); err != nil {
			return nil, err
		}
	}
	return install.New(install.Config{
		Target: target, Address: cfg.Containerd.Address, Containerd: o.containerd, Service: o.service, Systemd: o.systemd,
		Unit: o.unit, Program: program, NodeConfig: path, Kubelet: cfg.CRI.Socket, Settings: settings,
		Streams: agent.Streams{Dir: cfg.Directory}, SkipLost: o.skipLost, DryRun: o.dryRun, Out: cmd.OutOrStdout(),
	}), nil
}

// settings returns the content of the configuration file, for which the flags have to say
// nothing else than the file if there is one: the service is run without flags.
func (o *installOptions) settings(cfg nodeconfig.Config, path string) ([]byte, error) {
	wanted, err := cfg.Marshal()
	if err != nil {
		return nil, err
	}
	there, err := nodeconfig.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return wanted, nil
	}
	if err != nil {
		return nil, err
	}
	if now, err := there.Marshal(); err != nil || !bytes.Equal(now, wanted) {
		return nil, errors.Join(err, fmt.Errorf("the flags differ from %s, which the service reads: change the file", path))
	}
	return wanted, nil
}

func newInstallCommand() *cobra.Command {
	opts := &installOptions{}
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the agent as a service and configure containerd to use it",
		Long: `Install the agent as a service and configure containerd to use it.

Supports containerd 1.7 and 2.x. If the main configuration file changes, a copy is kept.
containerd validates the result. If a step fails, all changes are undone. A second install
changes only what is different.

Images that containerd has already unpacked are adopted: they still run, and nothing is
pulled again. containerd is restarted twice for this. Running containers keep running.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			installer, err := opts.installer(cmd, false)
			if err != nil {
				return err
			}
			return installer.Install(cmd.Context())
		},
	}
	opts.addTo(cmd)
	cmd.Flags().BoolVar(&opts.skipLost, "skip-lost-images", false, "continue even if some images must be pulled again before they can run")
	return cmd
}

func newUninstallCommand() *cobra.Command {
	opts := &installOptions{}
	var how install.UninstallOptions
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Restore the configuration of containerd and remove the service",
		Long: `Restore the configuration of containerd and remove the service.

If containers use snapshots of the agent, the command lists them and changes nothing. With
--drain, new containers use the former snapshotter, and the agent stays until the existing
ones have been removed. With --force they are killed; on a Kubernetes node, run "kubectl
drain" first.

Complete images are unpacked for the former snapshotter, without the network. Incomplete
ones are removed, and pulled again when they are needed. If the agent cannot be started,
images that only the agent has are also removed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			installer, err := opts.installer(cmd, true)
			if err != nil {
				return err
			}
			return installer.Uninstall(cmd.Context(), how)
		},
	}
	opts.addTo(cmd)
	f := cmd.Flags()
	f.BoolVar(&how.Drain, "drain", false, "wait until no container uses the agent")
	f.BoolVar(&how.Force, "force", false, "kill the containers that use the agent, or those that are left after --drain")
	f.BoolVar(&how.Purge, "purge", false, "also remove the directory of the agent")
	f.DurationVar(&how.DrainTimeout, "drain-timeout", 15*time.Minute, "maximum time that --drain waits")
	return cmd
}
