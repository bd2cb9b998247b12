package main

import (
	"encoding"
	"errors"
	"io/fs"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	nodeconfig "github.com/brisk-project/brisk/node/config"
)

// options are the flags that go on top of the configuration file.
type options struct {
	path    string
	missing bool              // the file need not be there
	given   nodeconfig.Config // what the flags say
	verbose bool
	// copies copy what one flag says, by name.
	copies map[string]func(to *nodeconfig.Config)
}

// field makes a flag of a field. The method that makes it comes from the flag library.
func field[T any](o *options, name string, of func(*nodeconfig.Config) *T, add func(p *T, name string)) {
	add(of(&o.given), name)
	o.copies[name] = func(to *nodeconfig.Config) { *of(to) = *of(&o.given) }
}

// text adds a flag whose value is text with a meaning.
func text[T encoding.TextMarshaler, P interface {
	*T
	encoding.TextUnmarshaler
}](flags *pflag.FlagSet, usage string) func(p *T, name string) {
	return func(p *T, name string) { flags.TextVar(P(p), name, *p, usage) }
}

func word(flags *pflag.FlagSet, usage string) func(p *string, name string) {
	return func(p *string, name string) { flags.StringVar(p, name, *p, usage) }
}

func number(flags *pflag.FlagSet, usage string) func(p *int64, name string) {
	return func(p *int64, name string) { flags.Int64Var(p, name, *p, usage) }
}

func percent(flags *pflag.FlagSet, usage string) func(p *int, name string) {
	return func(p *int, name string) { flags.IntVar(p, name, *p, usage) }
}

func truth(flags *pflag.FlagSet, usage string) func(p *bool, name string) {
	return func(p *bool, name string) { flags.BoolVar(p, name, *p, usage) }
}

func list(flags *pflag.FlagSet, usage string) func(p *[]string, name string) {
	return func(p *[]string, name string) { flags.StringSliceVar(p, name, *p, usage) }
}

// addPlacesTo adds the flags that say where things are.
func (o *options) addPlacesTo(cmd *cobra.Command) {
	type config = nodeconfig.Config
	o.given, o.copies = nodeconfig.Default(), make(map[string]func(*config))
	f := cmd.Flags()
	f.StringVar(&o.path, "config", "", "configuration file (default "+nodeconfig.DefaultPath+" if it exists)")
	field(o, "dir", func(c *config) *string { return &c.Directory },
		word(f, "directory for the cache and all state, not on an overlay filesystem"))
	field(o, "socket", func(c *config) *string { return &c.Socket }, word(f, "socket of the snapshotter, for containerd"))
	field(o, "containerd", func(c *config) *string { return &c.Containerd.Address }, word(f, "socket of containerd"))
}

// addTo adds all flags to a command.
func (o *options) addTo(cmd *cobra.Command) {
	type config = nodeconfig.Config
	type size = nodeconfig.Size
	type duration = nodeconfig.Duration
	o.addPlacesTo(cmd)
	f := cmd.Flags()
	field(o, "log-level", func(c *config) *string { return &c.Log.Level }, word(f, "debug, info, warn or error"))
	field(o, "log-format", func(c *config) *string { return &c.Log.Format }, word(f, "text or json"))
	field(o, "cache-size", func(c *config) *size { return &c.Cache.Size }, text[size](f, "limit of the disk cache in `bytes`"))
	field(o, "cache-inodes", func(c *config) *int64 { return &c.Cache.Inodes }, number(f, "limit of the disk cache in `inodes`"))
	field(o, "cache-high-water", func(c *config) *int { return &c.Cache.HighWater },
		percent(f, "the disk cache evicts above this `percent` of its limits"))
	field(o, "cache-low-water", func(c *config) *int { return &c.Cache.LowWater },
		percent(f, "the disk cache evicts down to this `percent` of its limits"))
	field(o, "cache-memory", func(c *config) *size { return &c.Cache.Memory }, text[size](f, "limit of the memory cache in `bytes`"))
	field(o, "cache-min-free", func(c *config) *size { return &c.Cache.MinFree },
		text[size](f, "the node is not ready with fewer free `bytes` on the disk; the cache shrinks before that"))
	field(o, "scrub-interval", func(c *config) *duration { return &c.Cache.Scrub.Interval },
		text[duration](f, "`duration` in which the whole disk cache is read and hashed; 0 turns it off"))
	field(o, "memory-limit", func(c *config) *size { return &c.Process.MemoryLimit },
		text[size](f, "soft memory limit of the program in `bytes`, without the memory cache; 0 means GOMEMLIMIT"))
	field(o, "backend", func(c *config) *string { return &c.Mount.Backend },
		word(f, "force a mount backend: erofs, loop or tree (default: the first that works)"))
	field(o, "read-timeout", func(c *config) *duration { return &c.Mount.ReadTimeout },
		text[duration](f, "`duration` after which a waiting read fails with EIO"))
	field(o, "mode", func(c *config) *string { return &c.Snapshotter.Mode },
		word(f, "how images with an index are loaded: auto, lazy, fill or plain"))
	field(o, "write-indexes", func(c *config) *bool { return &c.Snapshotter.WriteIndexes },
		truth(f, "write indexes for pulled images that have none"))
	field(o, "lookup-timeout", func(c *config) *duration { return &c.Snapshotter.LookupTimeout },
		text[duration](f, "`duration` that a pull may wait to learn whether its image has an index"))
	field(o, "fetch-timeout", func(c *config) *duration { return &c.Snapshotter.FetchTimeout },
		text[duration](f, "`duration` that a pull may wait for the index"))
	field(o, "async-remove", func(c *config) *bool { return &c.Snapshotter.AsyncRemove },
		truth(f, "delete the files of removed snapshots at the next clean-up of containerd"))
	field(o, "idle-mounts", func(c *config) *int64 { return &c.Snapshotter.IdleMounts },
		number(f, "number of `images` that stay mounted without a container, for the next one; 0 means none"))
	field(o, "idle-time", func(c *config) *duration { return &c.Snapshotter.IdleTime },
		text[duration](f, "`duration` that an image stays mounted without a container"))
	field(o, "index-trust", func(c *config) *string { return &c.Index.Trust },
		word(f, "which indexes are used: any, or signed by one of the keys"))
	field(o, "index-key", func(c *config) *[]string { return &c.Index.Keys },
		list(f, "file with public keys for --index-trust signed; can be repeated"))
	field(o, "plain-http", func(c *config) *[]string { return &c.Registry.PlainHTTP },
		list(f, "use http instead of https for this registry, given as host:port (always used on loopback)"))
	o.addCredentialsTo(f)
	field(o, "listen", func(c *config) *[]string { return &c.Peers.Listen },
		list(f, "serve blocks to peers on this address, such as /ip4/0.0.0.0/tcp/4077"))
	field(o, "peer", func(c *config) *[]string { return &c.Peers.Members },
		list(f, "peer to load blocks from: peerID@/ip4/.../tcp/..."))
	field(o, "keeper", func(c *config) *string { return &c.Keeper.Socket },
		word(f, "socket of brisk-keeper, which keeps mounts while this program is down (default: descriptor store of systemd)"))
	field(o, "http", func(c *config) *string { return &c.HTTP.Address },
		word(f, "serve metrics and health on this address; empty serves neither"))
	field(o, "pprof", func(c *config) *bool { return &c.HTTP.Pprof }, truth(f, "also serve profiles of the process, on loopback"))
	field(o, "kubernetes", func(c *config) *bool { return &c.Kubernetes.Enabled },
		truth(f, "report images to the cluster, and find peers there"))
	field(o, "kubeconfig", func(c *config) *string { return &c.Kubernetes.Kubeconfig },
		word(f, "kubeconfig file (default: in-cluster configuration of a pod)"))
	field(o, "node-name", func(c *config) *string { return &c.Kubernetes.Node }, word(f, "name of the node (default: $NODE_NAME)"))
	field(o, "node-address", func(c *config) *string { return &c.Kubernetes.Address },
		word(f, "IP address of this node for other nodes (default: $NODE_IP, or all addresses of the machine)"))
	f.BoolVarP(&o.verbose, "verbose", "v", false, "same as --log-level debug")
}

// addCredentialsTo adds the flags that say how registries are reached, and with which
// credentials.
func (o *options) addCredentialsTo(f *pflag.FlagSet) {
	type config = nodeconfig.Config
	field(o, "registry-config-path", func(c *config) *string { return &c.Registry.ConfigPath },
		word(f, "directories with a hosts.toml per registry, separated by colons, as config_path of containerd"))
	field(o, "docker-config", func(c *config) *string { return &c.Credentials.DockerConfig },
		word(f, "Docker configuration file with credentials (default: that of the user)"))
	field(o, "credentials-dir", func(c *config) *string { return &c.Credentials.Directory },
		word(f, "directory of Docker configuration files, such as mounted Secrets"))
	field(o, "credential-plugins-config", func(c *config) *string { return &c.Credentials.Plugins.Config },
		word(f, "value of --image-credential-provider-config of kubelet"))
	field(o, "credential-plugins-dir", func(c *config) *string { return &c.Credentials.Plugins.BinDir },
		word(f, "value of --image-credential-provider-bin-dir of kubelet"))
	field(o, "credentials-file", func(c *config) *string { return &c.Credentials.File },
		word(f, "encrypted cache of credentials (default: credentials in --dir)"))
	field(o, "credentials-key", func(c *config) *string { return &c.Credentials.KeyFile },
		word(f, "file with its key (default: the name of that file plus .key)"))
	field(o, "cri-socket", func(c *config) *string { return &c.CRI.Socket },
		word(f, "socket for imageServiceEndpoint of kubelet, to capture pull secrets (default: none)"))
	field(o, "cri-runtime", func(c *config) *string { return &c.CRI.Runtime },
		word(f, "container runtime that calls of kubelet are forwarded to (default: containerd)"))
}

// where returns the path of the configuration file.
func (o *options) where() string {
	if o.path == "" {
		return nodeconfig.DefaultPath
	}
	return o.path
}

// load returns the configuration that is in force.
func (o *options) load(flags *pflag.FlagSet) (nodeconfig.Config, error) {
	cfg, err := nodeconfig.Load(o.where())
	if (o.path == "" || o.missing) && errors.Is(err, fs.ErrNotExist) {
		cfg, err = nodeconfig.Default(), nil
	}
	if err != nil {
		return cfg, err
	}
	o.overlay(flags, &cfg)
	return cfg, cfg.Validate()
}

// overlay puts the flags on top of a configuration.
func (o *options) overlay(flags *pflag.FlagSet, cfg *nodeconfig.Config) {
	flags.Visit(func(f *pflag.Flag) {
		if copyTo, ok := o.copies[f.Name]; ok {
			copyTo(cfg)
		}
	})
	if o.verbose {
		cfg.Log.Level = "debug"
	}
}
