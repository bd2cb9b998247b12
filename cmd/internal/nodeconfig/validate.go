package nodeconfig

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// minCache is less than what a single container needs at once.
	minCache = 64 << 20
	// maxSocket is how long the path of a socket can be in bytes.
	maxSocket = 107
	// maxTimeout is longer than anybody waits.
	maxTimeout = time.Hour
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
	if c.Cache.Size < minCache {
		p.add("cache.size", "%s is less than %s", FormatSize(c.Cache.Size), FormatSize(minCache))
	}
	if c.Cache.Memory <= 0 {
		p.add("cache.memory", "%s is not more than 0", FormatSize(c.Cache.Memory))
	}
	if c.Cache.MinFree < 0 {
		p.add("cache.minFree", "%s is less than 0", FormatSize(c.Cache.MinFree))
	}
	if c.Mount.Backend != "" {
		p.oneOf("mount.backend", c.Mount.Backend, "erofs", "loop", "tree")
	}
	p.timeout("mount.readTimeout", c.Mount.ReadTimeout)
	p.timeout("snapshotter.lookupTimeout", c.Snapshotter.LookupTimeout)
	p.timeout("snapshotter.fetchTimeout", c.Snapshotter.FetchTimeout)
	for i, host := range c.Registry.PlainHTTP {
		if host == "" || strings.ContainsAny(host, "/ ") {
			p.add(fmt.Sprintf("registry.plainHTTP[%d]", i), "%q is not host:port", host)
		}
	}
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
	return errors.Join(p.errs...)
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
