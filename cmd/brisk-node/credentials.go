package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/registry/credential"
	"github.com/brisk-project/brisk/image/registry/hosts"
	"github.com/brisk-project/brisk/node"
	nodeconfig "github.com/brisk-project/brisk/node/config"
	"github.com/brisk-project/brisk/node/criproxy"
	"github.com/brisk-project/brisk/node/trust"
	"github.com/brisk-project/brisk/node/waterfall"
)

const (
	// kubeletRetry is how long after a failure kubelet is served again.
	kubeletRetry = 2 * time.Second
	// socketDirMode lets everybody reach sockets that they may use.
	socketDirMode = 0o711
)

// registries is how registries are reached, and with which credentials.
type registries struct {
	client *registry.Client
	hosts  *hosts.Hosts
	store  *credential.Store
	names  []string        // of where credentials come from
	proxy  *criproxy.Proxy // between kubelet and its runtime, nil for none
	socket string          // of the proxy
	log    *slog.Logger
	// watchTrust calls its argument when the keys of index.trust have changed, nil if nothing has to
	// be signed.
	watchTrust func(ctx context.Context, changed func()) error
}

func newRegistries(ctx context.Context, cfg *nodeconfig.Config, log *slog.Logger, metrics prometheus.Registerer, starts *waterfall.Recorder) (*registries, error) {
	sources := credentialSources(cfg.Credentials, log)
	file, key := cfg.CredentialFiles()
	store, err := credential.Open(credential.Config{
		Sources: sources, Path: file, KeyPath: key, Logger: log, Registerer: metrics,
	})
	if err != nil {
		return nil, err
	}
	plainHTTP := func(host string) bool { return slices.Contains(cfg.Registry.PlainHTTP, host) }
	r := &registries{
		hosts: hosts.New(hosts.Config{Path: cfg.Registry.ConfigPath, PlainHTTP: plainHTTP, Logger: log}),
		store: store, socket: cfg.CRI.Socket, log: log,
	}
	if r.socket != "" {
		r.names = append(r.names, "captured")
		r.proxy, err = criproxy.New(criproxy.Config{
			Socket: r.socket, Runtime: cfg.Runtime(), Capture: store.Capture, Logger: log, Registerer: metrics,
		})
		if err != nil {
			return nil, err
		}
	}
	for _, source := range sources {
		r.names = append(r.names, source.Name())
	}
	clientCfg := registry.Config{
		Credentials: store, PlainHTTP: plainHTTP, Endpoints: r.hosts.Endpoints, OnRequest: node.RecordExchange(starts), Logger: log,
	}
	rules := cfg.Index.TrustRules()
	if slices.ContainsFunc(rules, func(r trust.Rule) bool { return r.Signed }) {
		policy := trust.New(ctx, trust.Config{Rules: rules, Logger: log})
		clientCfg.Trust, r.watchTrust = policy, policy.Run
	}
	r.client, err = registry.NewClient(clientCfg)
	return r, err
}

// credentialSources returns where credentials are looked for, in that order: what was
// made for single repositories comes first. Containers that have their blocks need none,
// so what is wrong with plugins is no reason not to start.
func credentialSources(cfg nodeconfig.Credentials, log *slog.Logger) []credential.Source {
	var sources []credential.Source
	if cfg.Directory != "" {
		sources = append(sources, credential.NewDirectory(cfg.Directory, log))
	}
	if cfg.DockerConfig != "" {
		sources = append(sources, credential.NewDockerConfig(cfg.DockerConfig))
	} else {
		sources = append(sources, credential.NewKeychain(nil))
	}
	if cfg.Plugins.Config != "" {
		plugins, err := credential.NewPlugins(credential.PluginConfig{
			ConfigPath: cfg.Plugins.Config, BinDir: cfg.Plugins.BinDir, Logger: log,
		})
		if err != nil {
			log.Error("continuing without the credential plugins of kubelet", "error", err)
		}
		sources = append(sources, plugins...)
	}
	return sources
}

// close closes idle connections.
func (r *registries) close() {
	r.client.Close()
	r.hosts.Close()
}

// serveKubelet hands calls of kubelet on until ctx ends. After a failure it begins anew:
// kubelet cannot pull without, and containers that run shall not be bothered.
func (r *registries) serveKubelet(ctx context.Context) {
	said := ""
	for {
		err := r.proxyOnce(ctx)
		if ctx.Err() != nil {
			if err != nil {
				r.log.WarnContext(ctx, "ending the service for kubelet", "error", err)
			}
			return
		}
		if err == nil {
			err = errors.New("it has ended by itself")
		}
		if err.Error() != said {
			said = err.Error()
			r.log.ErrorContext(ctx, "kubelet is not served and cannot pull images; retrying", "socket", r.socket, "error", err)
		}
		timer := time.NewTimer(kubeletRetry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (r *registries) proxyOnce(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(r.socket), socketDirMode); err != nil {
		return fmt.Errorf("making the directory of the socket: %w", err)
	}
	r.log.InfoContext(ctx, "serving kubelet", "socket", r.socket)
	return r.proxy.Run(ctx)
}
