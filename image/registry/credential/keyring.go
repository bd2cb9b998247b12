package credential

import (
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// keyring has credentials by pattern, as Docker configurations and the answers of
// kubelet's plugins list them.
type keyring map[string][]Secret

// maxAuths is the most patterns of one keyring.
const maxAuths = 4096

// add puts a credential under a key of a Docker configuration, which may be a URL.
func (k keyring) add(key string, s Secret) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, rest, _ := strings.Cut(key, "/")
	for _, version := range []string{"v1/", "v2/"} {
		if after, ok := strings.CutPrefix(rest, version); ok {
			rest = after
			break
		}
	}
	if rest != "" {
		host += "/" + rest
	}
	k[host] = append(k[host], s)
}

// find returns the credentials for an image, the most specific first. The order is
// that of kubelet: the reverse of that of the patterns.
func (k keyring) find(image string) []Secret {
	at, err := parsePlace(image)
	if err != nil {
		return nil
	}
	patterns := make([]string, 0, len(k))
	for pattern := range k {
		if matches(pattern, at) {
			patterns = append(patterns, pattern)
		}
	}
	slices.Sort(patterns)
	var found []Secret
	for _, pattern := range slices.Backward(patterns) {
		found = append(found, k[pattern]...)
	}
	if len(found) == 0 && strings.HasPrefix(image, dockerHub+"/") {
		// Docker's configuration files call its registry by its real name.
		found = k[name.DefaultRegistry]
	}
	return found
}
