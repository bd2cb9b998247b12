package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/node/trust"
)

const (
	// minCache is less than what a single container needs at once.
	minCache = 64 << 20
	// minInodes is enough for the layers of some images.
	minInodes = 1000
	// minLimit is what the program needs besides the memory cache.
	minLimit = 32 << 20
	// maxSocket is how long the path of a socket can be in bytes.
	maxSocket = 107
	// maxTimeout is longer than anybody waits.
	maxTimeout = time.Hour
	// maxIdle is more mounts than nodes have images.
	maxIdle = 10_000
	// minScrub is how long it takes at least to read a whole cache.
	minScrub = time.Hour
)

// problems collects what is wrong with fields.
type problems struct{ errs []error }

func (p *problems) add(field, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
}

func (p *problems) oneOf(field, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		p.add(field, "%q is not one of %s", value, strings.Join(allowed, ", "))
	}
}

func (p *problems) absolute(field, path string) {
	if !filepath.IsAbs(path) {
		p.add(field, "%q is not an absolute path", path)
	}
}

func (p *problems) socket(field, path string) {
	p.absolute(field, path)
	if len(path) > maxSocket {
		p.add(field, "the path of a socket has at most %d bytes, not %d", maxSocket, len(path))
	}
}

func (p *problems) timeout(field string, d Duration) {
	if d <= 0 || time.Duration(d) > maxTimeout {
		p.add(field, "%s is not between 0 and %s", FormatDuration(d), maxTimeout)
	}
}

// Validate checks all fields. The error names every field that is wrong.
func (c *Config) Validate() error {
	var p problems
	p.oneOf("apiVersion", c.APIVersion, APIVersion)
	p.oneOf("kind", c.Kind, Kind)
	p.absolute("directory", c.Directory)
	if strings.ContainsAny(c.Directory, ",:\\") {
		p.add("directory", "%q holds one of the characters , : \\ that mount options give a meaning to", c.Directory)
	}
	p.socket("socket", c.Socket)
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "text", "json")
	c.Cache.validate(&p)
	c.Snapshotter.validate(&p)
	c.Index.validate(&p)
	if c.Mount.Backend != "" {
		p.oneOf("mount.backend", c.Mount.Backend, "erofs", "loop", "tree")
	}
	p.timeout("mount.readTimeout", c.Mount.ReadTimeout)
	for i, host := range c.Registry.PlainHTTP {
		if host == "" || strings.ContainsAny(host, "/ ") {
			p.add(fmt.Sprintf("registry.plainHTTP[%d]", i), "%q is not host:port", host)
		}
	}
	c.validateCredentials(&p)
	for i, address := range c.Peers.Listen {
		if !strings.HasPrefix(address, "/") {
			p.add(fmt.Sprintf("peers.listen[%d]", i), "%q is not a multiaddress such as /ip4/0.0.0.0/tcp/4077", address)
		}
	}
	for i, member := range c.Peers.Members {
		if _, address, ok := strings.Cut(member, "@"); !ok || !strings.HasPrefix(address, "/") {
			p.add(fmt.Sprintf("peers.members[%d]", i), "%q is not peerID@multiaddress", member)
		}
	}
	p.socket("containerd.address", c.Containerd.Address)
	c.HTTP.validate(&p)
	if c.Kubernetes.Kubeconfig != "" {
		p.absolute("kubernetes.kubeconfig", c.Kubernetes.Kubeconfig)
	}
	if _, err := netip.ParseAddr(c.Kubernetes.Address); c.Kubernetes.Address != "" && err != nil {
		p.add("kubernetes.address", "%q is not an IP address", c.Kubernetes.Address)
	}
	if limit := c.Process.MemoryLimit; limit != 0 && limit < minLimit {
		p.add("process.memoryLimit", "%s is less than %s", FormatSize(limit), FormatSize(minLimit))
	}
	return errors.Join(p.errs...)
}

func (s *Snapshotter) validate(p *problems) {
	p.oneOf("snapshotter.mode", s.Mode, "auto", "lazy", "fill", "plain")
	p.timeout("snapshotter.lookupTimeout", s.LookupTimeout)
	p.timeout("snapshotter.fetchTimeout", s.FetchTimeout)
	if s.IdleMounts < 0 || s.IdleMounts > maxIdle {
		p.add("snapshotter.idleMounts", "%d is not between 0 and %d", s.IdleMounts, maxIdle)
	}
	if s.IdleTime < 0 {
		p.add("snapshotter.idleTime", "%s is less than 0", FormatDuration(s.IdleTime))
	}
}

func (i *Index) validate(p *problems) {
	p.trust("index", i.Trust, i.Keys)
	for n, rule := range i.Rules {
		field := fmt.Sprintf("index.rules[%d]", n)
		p.trust(field, rule.Trust, rule.Keys)
		if len(rule.Repositories) == 0 {
			p.add(field+".repositories", "there is none")
		}
		for m, pattern := range rule.Repositories {
			if err := trust.CheckPattern(pattern); err != nil {
				p.add(fmt.Sprintf("%s.repositories[%d]", field, m), "%q: %v", pattern, err)
			}
		}
	}
}

// trust checks a trust field and its keys.
func (p *problems) trust(field, value string, keys []string) {
	p.oneOf(field+".trust", value, TrustAny, TrustSigned)
	if value == TrustSigned && len(keys) == 0 {
		p.add(field+".keys", "with trust %s there must be at least one", TrustSigned)
	}
	if value == TrustAny && len(keys) > 0 {
		p.add(field+".keys", "keys are only of use with trust %s", TrustSigned)
	}
	for n, key := range keys {
		entry := fmt.Sprintf("%s.keys[%d]", field, n)
		if !trust.IsKey(key) {
			p.absolute(entry, key)
		} else if _, err := signature.ParseKeys("it", []byte(key)); err != nil {
			p.add(entry, "%v", err)
		}
	}
}

func (c *Cache) validate(p *problems) {
	if c.Size < minCache {
		p.add("cache.size", "%s is less than %s", FormatSize(c.Size), FormatSize(minCache))
	}
	if c.Inodes < minInodes {
		p.add("cache.inodes", "%d is less than %d", c.Inodes, minInodes)
	}
	if c.LowWater <= 0 || c.LowWater > c.HighWater || c.HighWater > 100 {
		p.add("cache.lowWater", "%d and cache.highWater %d are not per cent of which the second is the larger", c.LowWater, c.HighWater)
	}
	if c.Memory <= 0 {
		p.add("cache.memory", "%s is not more than 0", FormatSize(c.Memory))
	}
	if c.MinFree < 0 {
		p.add("cache.minFree", "%s is less than 0", FormatSize(c.MinFree))
	}
	if every := c.Scrub.Interval; every != 0 && time.Duration(every) < minScrub {
		p.add("cache.scrub.interval", "%s is neither 0 nor at least %s", FormatDuration(every), minScrub)
	}
}

// validateCredentials checks what has to do with credentials, and where registries are.
func (c *Config) validateCredentials(p *problems) {
	for _, dir := range filepath.SplitList(c.Registry.ConfigPath) {
		p.absolute("registry.configPath", dir)
	}
	for _, place := range []struct{ field, path string }{
		{"credentials.dockerConfig", c.Credentials.DockerConfig},
		{"credentials.directory", c.Credentials.Directory},
		{"credentials.plugins.config", c.Credentials.Plugins.Config},
		{"credentials.plugins.binDir", c.Credentials.Plugins.BinDir},
		{"credentials.file", c.Credentials.File},
		{"credentials.keyFile", c.Credentials.KeyFile},
	} {
		if place.path != "" {
			p.absolute(place.field, place.path)
		}
	}
	if (c.Credentials.Plugins.Config == "") != (c.Credentials.Plugins.BinDir == "") {
		p.add("credentials.plugins", "config and binDir are only of use together")
	}
	if file, key := c.CredentialFiles(); file == key {
		p.add("credentials.keyFile", "it is the file that it seals")
	}
	if c.CRI.Runtime != "" {
		p.socket("cri.runtime", c.CRI.Runtime)
	}
	if c.CRI.Socket == "" {
		return
	}
	p.socket("cri.socket", c.CRI.Socket)
	switch c.CRI.Socket {
	case c.Runtime(), c.Containerd.Address:
		p.add("cri.socket", "it is that of containerd: kubelet needs one of its own")
	case c.Socket:
		p.add("cri.socket", "it is that of the snapshotter")
	}
}

func (h *HTTP) validate(p *problems) {
	if h.Address == "" {
		if h.Pprof {
			p.add("http.pprof", "there is no http.address to serve profiles on")
		}
		return
	}
	host, port, err := net.SplitHostPort(h.Address)
	if err != nil || port == "" {
		p.add("http.address", "%q is not host:port", h.Address)
		return
	}
	if !h.Pprof {
		return
	}
	ip, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !ip.IsLoopback()) {
		p.add("http.pprof", "profiles show what a process holds; http.address %q is not on loopback", h.Address)
	}
}
