package index

import (
	"slices"
	"strings"

	"github.com/distribution/reference"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

const (
	// DefaultNames is the default limit of names. They need about 20 MB.
	DefaultNames = 100_000
	// perName limits the digests of a name. A tag that moved has more than one, and which of
	// them a node has depends on the time of its pull.
	perName = 4
)

// Names maps image names to the keys of their images. The names come from the status of nodes and
// pods; the scheduler sends no request to a registry. All methods may be called concurrently.
type Names struct {
	keys     *lru.Cache[string, []v1alpha1.ImageKey]
	suffixes []string
}

// NewNames returns an empty map of at most limit names; 0 means [DefaultNames]. An image whose tag
// ends in one of suffixes is the accelerated form of the image without the suffix.
func NewNames(limit int, suffixes ...string) (*Names, error) {
	if limit == 0 {
		limit = DefaultNames
	}
	keys, err := lru.New[string, []v1alpha1.ImageKey](limit)
	if err != nil {
		return nil, err
	}
	return &Names{keys: keys, suffixes: suffixes}, nil
}

// Add adds names of one image: tags, and digests such as
// docker.io/library/nginx@sha256:.... Other names are ignored.
func (n *Names) Add(names ...string) {
	var found []v1alpha1.ImageKey
	for _, name := range names {
		if key, ok := pinned(name); ok && !slices.Contains(found, key) {
			found = append(found, key)
		}
	}
	if len(found) == 0 {
		return
	}
	for _, name := range names {
		if strings.Contains(name, "@") {
			continue
		}
		if name, ok := normalize(name); ok {
			n.learn(name, found)
		}
	}
}

func (n *Names) learn(name string, found []v1alpha1.ImageKey) {
	known, ok := n.keys.Get(name)
	if ok && !slices.ContainsFunc(found, func(key v1alpha1.ImageKey) bool { return !slices.Contains(known, key) }) {
		return
	}
	merged := slices.Clone(found)
	for _, key := range known {
		if !slices.Contains(merged, key) {
			merged = append(merged, key)
		}
	}
	n.keys.Add(name, merged[:min(len(merged), perName)])
}

// Image returns an image with the keys it may be reported under: that of its digest if it has
// one, else those its name was seen with, in every form. Without keys it is unknown.
func (n *Names) Image(name string) Image {
	image := Image{Name: name}
	if key, ok := pinned(name); ok {
		image.Keys = []v1alpha1.ImageKey{key}
	}
	plain, _, _ := strings.Cut(name, "@")
	tag, ok := normalize(plain)
	if !ok || len(image.Keys) > 0 && tagless(plain) {
		return image
	}
	for _, form := range n.forms(tag) {
		if len(image.Keys) > 0 && form == tag {
			continue // the digest says which of those that the tag had
		}
		keys, _ := n.keys.Get(form)
		for _, key := range keys {
			if !slices.Contains(image.Keys, key) {
				image.Keys = append(image.Keys, key)
			}
		}
	}
	return image
}

// forms returns a name as it is, without the suffix of an accelerated form, and with each.
func (n *Names) forms(name string) []string {
	forms := []string{name}
	base := name
	for _, suffix := range n.suffixes {
		if cut, ok := strings.CutSuffix(name, suffix); ok && len(cut) < len(base) {
			base = cut
		}
	}
	if base != name && !strings.HasSuffix(base, ":") {
		forms = append(forms, base)
	}
	for _, suffix := range n.suffixes {
		if form := base + suffix; form != name {
			forms = append(forms, form)
		}
	}
	return forms
}

// pinned returns the key of the digest in a name.
func pinned(name string) (v1alpha1.ImageKey, bool) {
	_, digest, ok := strings.Cut(name, "@")
	if !ok {
		return 0, false
	}
	key, err := v1alpha1.KeyOf(digest)
	return key, err == nil
}

func tagless(name string) bool {
	return strings.LastIndexByte(name, ':') <= strings.LastIndexByte(name, '/')
}

// normalize writes a name out in full: nginx is docker.io/library/nginx:latest.
func normalize(name string) (string, bool) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", false
	}
	return reference.TagNameOnly(ref).String(), true
}
