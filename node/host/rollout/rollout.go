package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	nodeconfig "github.com/brisk-project/brisk/node/config"
	"github.com/brisk-project/brisk/node/host/install"
)

// CredentialsPath is where on the machine the agent finds how to reach the cluster.
const CredentialsPath = "/run/brisk/kubernetes" //nolint:gosec // the name of a directory

// DefaultInterval is how often is looked for new credentials. They are renewed at four
// fifths of their life, which is ten minutes at least.
const DefaultInterval = 20 * time.Second

// installTimeout is how long installing may take, with restarts of agent and containerd, and
// some thousand snapshots to adopt.
const installTimeout = 10 * time.Minute

// Config configures a [Rollout].
type Config struct {
	Machine Machine
	// Program is what is brought to the machine, into Directory.
	Program   string
	Directory string
	// Settings is the configuration file of the agent. What it does not say of the cluster
	// is added.
	Settings string
	// Node and Address are the name of the machine in the cluster, and its IP address.
	Node, Address string
	// Credentials is the directory of a token and the certificate of the cluster; empty
	// for none.
	Credentials string
	// Server is the address of the API server.
	Server string
	// SettingsPath is where on the machine the configuration goes, UnitPath where the unit
	// is once the agent has been installed. Default: as "brisk-node install" has it.
	SettingsPath, UnitPath string
	// Restart is the command that restarts the agent. Default: it is told to systemd.
	Restart []string
	// Interval is how often is looked for new credentials. Default [DefaultInterval].
	Interval time.Duration
	// Out is told what is done.
	Out io.Writer
	// Log may be nil.
	Log *slog.Logger
}

// Rollout brings the agent to the machine.
type Rollout struct{ cfg Config }

// New returns a rollout. It does nothing yet.
func New(cfg Config) *Rollout {
	if cfg.Interval <= 0 {
		cfg.Interval = DefaultInterval
	}
	cfg.SettingsPath = cmp.Or(cfg.SettingsPath, nodeconfig.DefaultPath)
	cfg.UnitPath = cmp.Or(cfg.UnitPath, install.DefaultUnit)
	if len(cfg.Restart) == 0 {
		cfg.Restart = []string{"/usr/bin/env", "systemctl", "restart", install.UnitName}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Rollout{cfg: cfg}
}

// Run installs the agent of this version, and hands on credentials until ctx ends. An agent
// of another version is replaced under its mounts; it comes back if the new one does
// not start.
func (r *Rollout) Run(ctx context.Context) error {
	if err := r.handOn(); err != nil {
		return err
	}
	// Half of it would be worse than none, or all.
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), installTimeout)
	defer cancel()
	if err := r.install(whole); err != nil {
		return err
	}
	tick := time.NewTicker(r.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := r.handOn(); err != nil {
				r.cfg.Log.WarnContext(ctx, "credentials are not passed on", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Rollout) program() string { return filepath.Join(r.cfg.Directory, "brisk-node") }

// install brings program and configuration, and lets the program install itself.
func (r *Rollout) install(ctx context.Context) error {
	program, err := os.ReadFile(r.cfg.Program)
	if err != nil {
		return fmt.Errorf("reading the program: %w", err)
	}
	settings, err := r.settings()
	if err != nil {
		return err
	}
	m := r.cfg.Machine
	oldProgram, oldSettings := r.now(r.program()), r.now(r.cfg.SettingsPath)
	newProgram, err := m.Write(r.program(), program, 0o755)
	if err != nil {
		return err
	}
	newSettings, err := m.Write(r.cfg.SettingsPath, settings, 0o644)
	if err != nil {
		return err
	}
	installed := r.now(r.cfg.UnitPath) != nil
	if installed && (newProgram || newSettings) {
		if err := r.restart(ctx); err != nil {
			err = fmt.Errorf("the agent is as before, for the new one does not start: %w", err)
			return errors.Join(err, r.back(ctx, oldProgram, oldSettings))
		}
	}
	return m.Run(ctx, r.cfg.Out, r.program(), "install", "--config", r.cfg.SettingsPath)
}

// settings returns the configuration file with what only pods are told.
func (r *Rollout) settings() ([]byte, error) {
	content, err := os.ReadFile(r.cfg.Settings)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if r.cfg.Credentials == "" {
		return content, nil
	}
	var all map[string]any
	if err := yaml.Unmarshal(content, &all); err != nil {
		return nil, fmt.Errorf("reading %s: %w", r.cfg.Settings, err)
	}
	cluster, _ := all["kubernetes"].(map[string]any) //nolint:errcheck // what else it may be is found by the agent
	if cluster == nil {
		cluster = make(map[string]any)
	}
	for name, value := range map[string]any{
		"enabled": true, "kubeconfig": filepath.Join(CredentialsPath, "kubeconfig"), "node": r.cfg.Node, "address": r.cfg.Address,
	} {
		if _, ok := cluster[name]; !ok {
			cluster[name] = value
		}
	}
	all["kubernetes"] = cluster
	if content, err = yaml.Marshal(all); err != nil {
		return nil, fmt.Errorf("writing the configuration: %w", err)
	}
	return content, nil
}

// now returns what a file of the machine holds, nil if there is none.
func (r *Rollout) now(path string) []byte {
	content, err := r.cfg.Machine.Read(path)
	if err != nil {
		return nil
	}
	return content
}

func (r *Rollout) restart(ctx context.Context) error {
	return r.cfg.Machine.Run(ctx, r.cfg.Out, r.cfg.Restart[0], r.cfg.Restart[1:]...)
}

// back brings the program and the configuration of before.
func (r *Rollout) back(ctx context.Context, program, settings []byte) error {
	var errs []error
	for path, content := range map[string][]byte{r.program(): program, r.cfg.SettingsPath: settings} {
		if content == nil {
			continue
		}
		mode := os.FileMode(0o644)
		if path == r.program() {
			mode = 0o755
		}
		_, err := r.cfg.Machine.Write(path, content, mode)
		errs = append(errs, err)
	}
	// The way back must not end with the way there.
	return errors.Join(append(errs, r.restart(context.WithoutCancel(ctx)))...)
}

// handOn writes the credentials of this pod where the agent finds them.
func (r *Rollout) handOn() error {
	if r.cfg.Credentials == "" {
		return nil
	}
	for _, name := range []string{"ca.crt", "token"} {
		content, err := os.ReadFile(filepath.Join(r.cfg.Credentials, name))
		if err != nil {
			return fmt.Errorf("reading credentials: %w", err)
		}
		if _, err := r.cfg.Machine.Write(filepath.Join(CredentialsPath, name), content, 0o600); err != nil {
			return err
		}
	}
	content, err := kubeconfig(r.cfg.Server)
	if err != nil {
		return err
	}
	_, err = r.cfg.Machine.Write(filepath.Join(CredentialsPath, "kubeconfig"), content, 0o600)
	return err
}

// kubeconfig returns one whose token is read from its file again and again.
func kubeconfig(server string) ([]byte, error) {
	type entry map[string]any
	content, err := yaml.Marshal(entry{
		"apiVersion": "v1", "kind": "Config", "current-context": "cluster",
		"clusters": []entry{{"name": "cluster", "cluster": entry{
			"server": server, "certificate-authority": filepath.Join(CredentialsPath, "ca.crt"),
		}}},
		"users":    []entry{{"name": "agent", "user": entry{"tokenFile": filepath.Join(CredentialsPath, "token")}}},
		"contexts": []entry{{"name": "cluster", "context": entry{"cluster": "cluster", "user": "agent"}}},
	})
	if err != nil {
		return nil, fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return content, nil
}

// Server returns the address of the API server as pods are told it.
func Server(getenv func(string) string) (string, error) {
	host, port := getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return "", errors.New("this is no pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
	}
	return "https://" + net.JoinHostPort(strings.Trim(host, "[]"), port), nil
}
