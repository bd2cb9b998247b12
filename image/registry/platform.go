package registry

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containerd/platforms"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ParsePlatform reads a platform as containerd writes it, such as "linux/arm64/v8", "arm64" or
// "linux(+erofs)/amd64". The empty text is the zero platform: this machine's.
func ParsePlatform(text string) (v1.Platform, error) {
	if text == "" {
		return v1.Platform{}, nil
	}
	p, err := platforms.Parse(text)
	if err != nil {
		return v1.Platform{}, fmt.Errorf("parsing platform %.100q: %w", text, err)
	}
	return v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}, nil
}

// FormatPlatform writes a platform as [ParsePlatform] reads it.
func FormatPlatform(p v1.Platform) string {
	if p.OS == "" {
		return ""
	}
	return platforms.FormatAll(spec(p))
}

func spec(p v1.Platform) ocispec.Platform {
	return ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

// matcherOf returns what a machine of a platform runs, and what it prefers. What the platform
// leaves open is as on this machine.
func matcherOf(p v1.Platform) platforms.MatchComparer {
	wanted, here := spec(p), platforms.DefaultSpec()
	if wanted.Architecture == "" {
		wanted.Architecture, wanted.Variant = here.Architecture, cmp.Or(wanted.Variant, here.Variant)
	}
	wanted.OS = cmp.Or(wanted.OS, here.OS)
	return platforms.Only(wanted)
}

// preferred returns the manifests that a machine may run, the one that containerd takes first.
// At each level of nested image indexes, containerd takes the entry of the best platform, and
// one that names no platform only if there is no other; of equals the first. Where that leads to
// nothing, the entries that follow are better than nothing.
func preferred(members []member, matcher platforms.MatchComparer) []v1.Descriptor {
	fit := slices.DeleteFunc(slices.Clone(members), func(m member) bool {
		return m.Platform != nil && !matcher.Match(spec(*m.Platform))
	})
	slices.SortStableFunc(fit, func(a, b member) int {
		switch {
		case a.Platform == nil && b.Platform == nil:
			return 0
		case a.Platform == nil:
			return 1
		case b.Platform == nil:
			return -1
		case matcher.Less(spec(*a.Platform), spec(*b.Platform)):
			return -1
		case matcher.Less(spec(*b.Platform), spec(*a.Platform)):
			return 1
		}
		return 0
	})
	var found []v1.Descriptor
	for _, m := range fit {
		if m.nested != nil {
			found = append(found, preferred(m.nested, matcher)...)
			continue
		}
		found = append(found, m.Descriptor)
	}
	return found
}
