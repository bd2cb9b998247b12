package hosts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/pelletier/go-toml/v2"

	"github.com/brisk-project/brisk/image/registry"
)

const (
	// FileName is the name of the file in the directory of a registry.
	FileName = "hosts.toml"
	// lookAgain is after how long it is looked whether something has changed.
	lookAgain = 5 * time.Second
	// maxFile is the longest file in bytes that is read.
	maxFile = 1 << 20
	// readBuffer is what one system call may bring of a blob.
	readBuffer = 64 << 10
	// idlePerHost is how many idle connections to a host are kept.
	idlePerHost = 32
	// dockerHub is what containerd calls the registry of Docker, hubHost where it is.
	dockerHub = "docker.io"
	hubHost   = "registry-1.docker.io"
)

// Config configures [Hosts].
type Config struct {
	// Path is what containerd has as config_path: directories with a directory for each
	// registry in them, separated by colons. The first that has one is used.
	Path string
	// PlainHTTP reports whether a registry, named by host and port, speaks HTTP without
	// TLS unless a file says something else. nil means none.
	PlainHTTP func(host string) bool
	// Logger gets the unusual. nil discards.
	Logger *slog.Logger
}

// Hosts knows where the content of registries is to be had. It is safe for concurrent
// use.
type Hosts struct {
	cfg Config

	mu    sync.Mutex
	known map[string]*entry // by host
}

// entry is what is known of one registry.
type entry struct {
	looked    time.Time
	state     string // of its directory
	endpoints []*registry.Endpoint
	clients   []*http.Client
}

// New returns the hosts of a path. Nothing is read yet.
func New(cfg Config) *Hosts {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Hosts{cfg: cfg, known: make(map[string]*entry)}
}

// Endpoints returns the endpoints of a registry, named by host and port: mirrors in the
// order of the file, the registry last. None means that nothing is configured for it.
// Directories that cannot be used are logged and count as none.
func (h *Hosts) Endpoints(ctx context.Context, host string) []*registry.Endpoint {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	e := h.known[host]
	if e != nil && now.Sub(e.looked) < lookAgain {
		return e.endpoints
	}
	if e == nil {
		e = &entry{}
		h.known[host] = e
	}
	e.looked = now
	dir, state, err := h.look(host)
	if err != nil {
		state = err.Error()
	}
	if state == e.state {
		return e.endpoints
	}
	e.close()
	*e = entry{looked: now, state: state}
	if err == nil && dir != "" {
		err = h.load(ctx, host, dir, e)
	}
	if err != nil {
		h.cfg.Logger.WarnContext(ctx, "continuing without the configured hosts of a registry", "registry", host, "error", err)
	}
	return e.endpoints
}

// Close closes idle connections. The hosts may be used after it.
func (h *Hosts) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.known {
		e.close()
	}
}

func (e *entry) close() {
	for _, c := range e.clients {
		c.CloseIdleConnections()
	}
}

// containerdName returns what containerd calls a registry.
func containerdName(host string) string {
	if host == name.DefaultRegistry {
		return dockerHub
	}
	return host
}

// look returns the directory of a registry, empty for none, and what tells whether
// anything in it has changed.
func (h *Hosts) look(host string) (dir, state string, err error) {
	for _, root := range filepath.SplitList(h.cfg.Path) {
		dir, err = config.HostDirFromRoot(root)(containerdName(host))
		if err == nil && dir != "" {
			break
		}
		if !errdefs.IsNotFound(err) && !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
		dir = ""
	}
	if dir == "" {
		return "", "", nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", "", err
	}
	var text strings.Builder
	text.WriteString(dir)
	for _, entry := range entries {
		info, err := os.Stat(filepath.Join(dir, entry.Name())) // of what a link leads to
		if err != nil {
			continue
		}
		fmt.Fprintf(&text, "\n%s %d %d", entry.Name(), info.Size(), info.ModTime().UnixNano())
	}
	return dir, text.String(), nil
}

// Check reports what is wrong with the file in the directory of a registry; no file is
// right. The error quotes nothing of it but names: there may be secrets in headers.
func Check(dir string) error {
	path := filepath.Join(dir, FileName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() > maxFile {
		return fmt.Errorf("%s: %d bytes, the limit is %d", path, info.Size(), maxFile)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var anything map[string]any
	if err := toml.Unmarshal(content, &anything); err != nil {
		if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, column := bad.Position()
			return fmt.Errorf("%s: not TOML: line %d, column %d", path, line, column)
		}
		return fmt.Errorf("%s: not TOML", path)
	}
	return nil
}

// load reads the directory of a registry.
func (h *Hosts) load(ctx context.Context, host, dir string, into *entry) error {
	if err := Check(dir); err != nil {
		return err
	}
	options := config.HostOptions{
		HostDir:      func(string) (string, error) { return dir, nil },
		UpdateClient: tune,
	}
	if h.cfg.PlainHTTP != nil && h.cfg.PlainHTTP(host) {
		options.DefaultScheme = "http"
	}
	namespace := containerdName(host)
	found, err := config.ConfigureHosts(ctx, options)(namespace)
	if err != nil {
		return fmt.Errorf("reading %s: %w", dir, err)
	}
	for i, f := range found {
		e := &registry.Endpoint{
			URL:    &url.URL{Scheme: f.Scheme, Host: f.Host, Path: f.Path},
			Mirror: i < len(found)-1, Header: f.Header, Transport: f.Client.Transport,
			Resolve:   f.Capabilities.Has(docker.HostCapabilityResolve),
			Pull:      f.Capabilities.Has(docker.HostCapabilityPull),
			Referrers: f.Capabilities.Has(docker.HostCapabilityReferrers),
		}
		if f.Host != namespace && (namespace != dockerHub || f.Host != hubHost) {
			e.Namespace = namespace
		}
		into.endpoints = append(into.endpoints, e)
		into.clients = append(into.clients, f.Client)
	}
	return nil
}

// tune makes the connections of containerd fit for reading ranges of blobs.
func tune(client *http.Client) error {
	transport, ok := client.Transport.(*http.Transport)
	if !ok {
		return nil
	}
	transport.DisableCompression = true
	transport.ReadBufferSize = readBuffer
	transport.MaxIdleConnsPerHost = idlePerHost
	return nil
}
