package credential

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// maxPattern is the longest pattern in bytes: a host name and a path.
const maxPattern = 4096

// dockerHub is what kubelet calls the registry whose real name is
// [name.DefaultRegistry].
const dockerHub = "docker.io"

// imageName is what kubelet calls a repository.
func imageName(repo name.Repository) string {
	registry := repo.RegistryStr()
	if registry == name.DefaultRegistry {
		registry = dockerHub
	}
	return registry + "/" + repo.RepositoryStr()
}

// place is where images are: a pattern of places, or one image.
type place struct {
	labels []string // of the host name
	port   string
	path   string
}

// parsePlace reads a host, with an optional port and path, without a scheme.
func parsePlace(s string) (place, error) {
	if len(s) > maxPattern {
		return place{}, fmt.Errorf("pattern of %d bytes, the limit is %d", len(s), maxPattern)
	}
	u, err := url.Parse("https://" + s)
	if err != nil {
		// The error of the URL would repeat it, and it may hold a password.
		return place{}, errors.New("pattern is not a host with a port and a path")
	}
	host, port := u.Host, ""
	if strings.Contains(host, ":") {
		if host, port, err = net.SplitHostPort(u.Host); err != nil {
			return place{}, errors.New("pattern has an invalid port")
		}
	}
	return place{labels: strings.Split(host, "."), port: port, path: u.Path}, nil
}

// matches reports whether an image is at the place, by the rules of kubelet: labels
// match one by one and may hold wildcards, ports are equal, and the path is a
// prefix, not necessarily of whole elements.
func (p place) matches(image place) bool {
	if p.port != image.port || len(p.labels) != len(image.labels) || !strings.HasPrefix(image.path, p.path) {
		return false
	}
	for i, pattern := range p.labels {
		if ok, err := path.Match(pattern, image.labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// matches reports whether pattern, which need not be valid, matches image.
func matches(pattern string, image place) bool {
	p, err := parsePlace(pattern)
	return err == nil && p.matches(image)
}
