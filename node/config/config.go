package config

import (
	"cmp"
	"path/filepath"
	"slices"
	"time"

	"github.com/brisk-project/brisk/node/trust"
)

// What a file says it is.
const (
	APIVersion = "brisk.dev/v1alpha1"
	Kind       = "NodeConfig"
)

// The places where the programs look for each other when nothing else is configured.
const (
	DefaultPath      = "/etc/brisk/node.yaml"
	DefaultDirectory = "/var/lib/brisk"
	DefaultSocket    = "/run/brisk/snapshotter.sock"
	// DefaultConfigPath is that of containerd.
	DefaultConfigPath = "/etc/containerd/certs.d:/etc/docker/certs.d"
)

// Config is the configuration of a node. [Default] and [Load] make one.
type Config struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	// Directory holds everything the node keeps.
	Directory string `yaml:"directory"`
	// Socket is where containerd finds the snapshotter.
	Socket      string      `yaml:"socket"`
	Log         Log         `yaml:"log"`
	Cache       Cache       `yaml:"cache"`
	Mount       Mount       `yaml:"mount"`
	Snapshotter Snapshotter `yaml:"snapshotter"`
	Index       Index       `yaml:"index"`
	Registry    Registry    `yaml:"registry"`
	Credentials Credentials `yaml:"credentials"`
	CRI         CRI         `yaml:"cri"`
	Peers       Peers       `yaml:"peers"`
	Keeper      Keeper      `yaml:"keeper"`
	Containerd  Containerd  `yaml:"containerd"`
	HTTP        HTTP        `yaml:"http"`
	Kubernetes  Kubernetes  `yaml:"kubernetes"`
	Process     Process     `yaml:"process"`
}

// Log configures the log.
type Log struct {
	Level  string `yaml:"level"`  // debug, info, warn or error
	Format string `yaml:"format"` // text or json
}

// Cache bounds what is kept of layers.
type Cache struct {
	Size   Size  `yaml:"size"`   // on disk
	Inodes int64 `yaml:"inodes"` // on disk
	// HighWater and LowWater are per cent of both: above the first the cache evicts down
	// to the second.
	HighWater int  `yaml:"highWater"`
	LowWater  int  `yaml:"lowWater"`
	Memory    Size `yaml:"memory"` // in memory
	// MinFree is how much of the filesystem must be free for the node to be ready. The
	// cache gives way before.
	MinFree Size  `yaml:"minFree"`
	Scrub   Scrub `yaml:"scrub"`
}

// Scrub configures the search for bit rot in the disk cache.
type Scrub struct {
	// Interval is the time in which everything is read and hashed once; 0 leaves that out.
	Interval Duration `yaml:"interval"`
}

// Mount configures mounts and reads.
type Mount struct {
	// Backend is erofs, loop or tree; empty means the first that works.
	Backend string `yaml:"backend"`
	// ReadTimeout is how long a read may wait before it fails.
	ReadTimeout Duration `yaml:"readTimeout"`
}

// Snapshotter configures the snapshotter for containerd.
type Snapshotter struct {
	// Mode is auto, lazy, fill or plain.
	Mode string `yaml:"mode"`
	// WriteIndexes has the indexes of pulled images that have none written.
	WriteIndexes bool `yaml:"writeIndexes"`
	// LookupTimeout is how long a pull waits for the answer whether its image has an
	// index, FetchTimeout how long it waits for an index that is there.
	LookupTimeout Duration `yaml:"lookupTimeout"`
	FetchTimeout  Duration `yaml:"fetchTimeout"`
	// AsyncRemove leaves the files of removed snapshots to the next clean-up.
	AsyncRemove bool `yaml:"asyncRemove"`
	// IdleMounts is how many images stay mounted without a container, IdleTime how long
	// each of them does.
	IdleMounts int64    `yaml:"idleMounts"`
	IdleTime   Duration `yaml:"idleTime"`
}

// The values of a trust field.
const (
	TrustAny    = "any"    // whoever may push to the registry
	TrustSigned = "signed" // whoever has signed with one of the keys
)

// Index configures which indexes and start-up artifacts are used.
type Index struct {
	// Trust is any or signed, for repositories that no rule is for.
	Trust string `yaml:"trust"`
	// Keys are the public keys for it, one of which must have signed: paths of PEM files, or keys in
	// PEM.
	Keys []string `yaml:"keys"`
	// Rules are for some repositories. The first one that matches counts.
	Rules []TrustRule `yaml:"rules"`
}

// TrustRule says for some repositories which indexes and start-up artifacts are used.
type TrustRule struct {
	// Repositories are patterns: * within a part of the name, ** for any number of parts.
	Repositories []string `yaml:"repositories"`
	Trust        string   `yaml:"trust"`
	Keys         []string `yaml:"keys"`
}

// Registry configures the access to registries.
type Registry struct {
	// PlainHTTP lists registries, as host:port, that speak HTTP without TLS.
	PlainHTTP []string `yaml:"plainHTTP"`
	// ConfigPath is what containerd has as config_path: directories with a hosts.toml for
	// each registry, separated by colons. Empty means none.
	ConfigPath string `yaml:"configPath"`
}

// Credentials configures the sources of credentials for registries.
type Credentials struct {
	// DockerConfig is a Docker configuration file. Empty means that of the user.
	DockerConfig string `yaml:"dockerConfig"`
	// Directory holds files like that, such as mounted Secrets. Empty means none.
	Directory string  `yaml:"directory"`
	Plugins   Plugins `yaml:"plugins"`
	// File keeps what was found, sealed with the key in KeyFile. Empty means the file
	// credentials in the directory of the node, and that with .key behind it.
	File    string `yaml:"file"`
	KeyFile string `yaml:"keyFile"`
}

// Plugins has the paths of the credential provider plugins of kubelet.
type Plugins struct {
	// Config is kubelet's --image-credential-provider-config, BinDir its
	// --image-credential-provider-bin-dir. Both are set, or none.
	Config string `yaml:"config"`
	BinDir string `yaml:"binDir"`
}

// CRI configures the proxy between kubelet and the container runtime, which captures the credentials of pulls.
type CRI struct {
	// Socket is what kubelet has as imageServiceEndpoint. Empty serves none.
	Socket string `yaml:"socket"`
	// Runtime is the socket that calls are handed on to. Empty means that of containerd.
	Runtime string `yaml:"runtime"`
}

// Peers configures the exchange of blocks with other nodes.
type Peers struct {
	// Listen are multiaddresses to serve peers on; none leaves peers out.
	Listen []string `yaml:"listen"`
	// Members are the other nodes, as peerID@multiaddress.
	Members []string `yaml:"members"`
}

// Keeper configures the process that keeps mounts while brisk-node is down.
type Keeper struct {
	// Socket is that of brisk-keeper. Empty means the descriptor store of systemd, if
	// there is one.
	Socket string `yaml:"socket"`
}

// Containerd configures the connection to containerd.
type Containerd struct {
	// Address is its socket.
	Address string `yaml:"address"`
}

// HTTP configures the server of metrics and health.
type HTTP struct {
	// Address is host:port; empty serves nothing.
	Address string `yaml:"address"`
	// Pprof serves profiles of the process too. Address must then be on loopback.
	Pprof bool `yaml:"pprof"`
}

// Kubernetes configures the connection to the cluster.
type Kubernetes struct {
	// Enabled reports what the node has to its cluster, and finds peers there.
	Enabled bool `yaml:"enabled"`
	// Kubeconfig is a file that says how to reach the cluster; empty means as a pod does.
	Kubeconfig string `yaml:"kubeconfig"`
	// Node is the name of the node; empty means what the environment says in NODE_NAME.
	Node string `yaml:"node"`
	// Address is the IP address that other nodes reach this one under; empty means what
	// the environment says in NODE_IP, and without that all addresses of the machine.
	Address string `yaml:"address"`
}

// Process bounds what the program itself takes.
type Process struct {
	// MemoryLimit is what the garbage collector keeps memory below, without what the memory
	// cache may take, as long as what is in use allows it; 0 leaves that to the environment
	// variable GOMEMLIMIT.
	MemoryLimit Size `yaml:"memoryLimit"`
}

// TrustRules returns the rules with the one for all other repositories.
func (i *Index) TrustRules() []trust.Rule {
	var rules []trust.Rule
	for _, rule := range append(slices.Clone(i.Rules), TrustRule{Repositories: []string{"**"}, Trust: i.Trust, Keys: i.Keys}) {
		rules = append(rules, trust.Rule{Repositories: rule.Repositories, Signed: rule.Trust == TrustSigned, Keys: rule.Keys})
	}
	return rules
}

// CredentialFiles returns the file that keeps credentials, and that of its key.
func (c *Config) CredentialFiles() (file, key string) {
	file, key = c.Credentials.File, c.Credentials.KeyFile
	if file == "" {
		file = filepath.Join(c.Directory, "credentials")
	}
	if key == "" {
		key = file + ".key"
	}
	return file, key
}

// Runtime returns the socket that calls of kubelet are handed on to.
func (c *Config) Runtime() string { return cmp.Or(c.CRI.Runtime, c.Containerd.Address) }

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		APIVersion: APIVersion,
		Kind:       Kind,
		Directory:  DefaultDirectory,
		Socket:     DefaultSocket,
		Log:        Log{Level: "info", Format: "text"},
		Cache:      Cache{Size: 20 << 30, Inodes: 100_000, HighWater: 97, LowWater: 92, Memory: 16 << 20, MinFree: 1 << 30, Scrub: Scrub{Interval: Duration(7 * 24 * time.Hour)}},
		Mount:      Mount{ReadTimeout: Duration(30 * time.Second)},
		Snapshotter: Snapshotter{
			Mode: "auto", WriteIndexes: true,
			LookupTimeout: Duration(time.Second), FetchTimeout: Duration(20 * time.Second),
			IdleMounts: 16, IdleTime: Duration(time.Hour),
		},
		Index:      Index{Trust: TrustAny, Keys: []string{}, Rules: []TrustRule{}},
		Registry:   Registry{PlainHTTP: []string{}, ConfigPath: DefaultConfigPath},
		Peers:      Peers{Listen: []string{}, Members: []string{}},
		Containerd: Containerd{Address: "/run/containerd/containerd.sock"},
		HTTP:       HTTP{Address: "127.0.0.1:4078"},
		Process:    Process{MemoryLimit: 64 << 20},
	}
}
