package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// refName is the annotation of index.json that has the tag.
	refName = "org.opencontainers.image.ref.name"
	// latest is the tag of an image that is the only one and has none.
	latest = "latest"
	// maxManifest is the longest manifest and the longest index.json in bytes.
	maxManifest = 4 << 20
	// maxEntries is the most entries of index.json.
	maxEntries = 4096
)

var (
	errReadOnly = errors.New("it is only read; name a registry, an OCI image layout or an OCI archive to write to")
	errNoLayout = errors.New("not an OCI image layout")
)

// store keeps the files of a layout.
type store interface {
	// index returns index.json, nil if there is none yet.
	index() ([]byte, error)
	setIndex(content []byte) error
	// open opens a blob. Errors wrap [block.ErrNotFound].
	open(digest block.Digest) (blob, error)
	// create begins a blob.
	create() (*upload, error)
	// commit stores a blob that is complete.
	commit(u *upload, digest block.Digest) error
	// finish ends the use of the store and keeps what was written, discard does not, where
	// that is possible.
	finisher
}

// blob is an open blob.
type blob interface {
	io.ReadSeekCloser
	Size() int64
}

// layout is an OCI image layout.
type layout struct {
	store store
	tag   string // what was opened
	write bool

	mu      sync.Mutex // protects index.json
	uploads uploads
}

func open(k kind, path, tag string, write bool) (*layout, error) {
	var s store
	var err error
	switch k {
	case kindDirectory:
		s, err = openDirectory(path, write)
	case kindArchive:
		s, err = openArchive(path, write)
	default:
		if write {
			return nil, errReadOnly
		}
		s, tag, err = openDocker(path, tag)
	}
	if err != nil {
		return nil, err
	}
	l := &layout{store: s, write: write}
	if l.tag, err = l.choose(tag); err != nil {
		return nil, errors.Join(err, s.discard())
	}
	return l, nil
}

// choose returns the tag of the image that is meant.
func (l *layout) choose(tag string) (string, error) {
	index, err := l.read()
	if err != nil {
		return "", err
	}
	if tag != "" {
		if _, ok := find(index, tag); !ok && !l.write {
			return "", fmt.Errorf("tag %q: %w; there is: %s", tag, block.ErrNotFound, strings.Join(tagsOf(index), ", "))
		}
		return tag, nil
	}
	images := imagesOf(index)
	switch {
	case len(images) == 0 && l.write:
		return latest, nil
	case len(images) == 0:
		return "", fmt.Errorf("%w: it has no image", block.ErrNotFound)
	case len(images) > 1:
		return "", fmt.Errorf("it has several images, name the tag: %s", strings.Join(tagsOf(index), ", "))
	case tagOf(images[0]) == "":
		return latest, nil
	}
	return tagOf(images[0]), nil
}

// read returns index.json.
func (l *layout) read() (*v1.IndexManifest, error) {
	raw, err := l.store.index()
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}, nil
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("reading index.json: %w", err)
	}
	if len(index.Manifests) > maxEntries {
		return nil, fmt.Errorf("reading index.json: %d entries, the limit is %d", len(index.Manifests), maxEntries)
	}
	return index, nil
}

// put stores a manifest, under a tag if that is not "".
func (l *layout) put(content []byte, mediaType types.MediaType, tag string) error {
	u, err := l.store.create()
	if err != nil {
		return err
	}
	if _, err := u.Write(content); err != nil {
		return errors.Join(err, u.discard())
	}
	digest := block.Sum(content)
	if err := l.store.commit(u, digest); err != nil {
		return err
	}
	var m struct {
		ArtifactType string         `json:"artifactType"`
		Subject      *v1.Descriptor `json:"subject"`
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return fmt.Errorf("reading a manifest: %w", err)
	}
	if tag == "" && m.Subject == nil {
		return nil // an image index will list it
	}
	entry := v1.Descriptor{
		MediaType: mediaType, Size: int64(len(content)), Digest: v1.Hash{Algorithm: "sha256", Hex: digest.Hex()}, ArtifactType: m.ArtifactType,
	}
	if tag != "" {
		entry.Annotations = map[string]string{refName: tag}
	}
	return l.list(entry, tag)
}

// list puts an entry into index.json, in place of what the tag named before.
func (l *layout) list(entry v1.Descriptor, tag string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	index, err := l.read()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(index.Manifests, func(d v1.Descriptor) bool {
		return tagOf(d) == tag && (tag != "" || d.Digest == entry.Digest)
	})
	switch {
	case i >= 0 && index.Manifests[i].Digest == entry.Digest:
		return nil
	case i >= 0:
		index.Manifests[i] = entry
	default:
		index.Manifests = append(index.Manifests, entry)
	}
	content, err := json.Marshal(index)
	if err != nil {
		return fmt.Errorf("encoding index.json: %w", err)
	}
	return l.store.setIndex(content)
}

// find returns what a tag names.
func find(index *v1.IndexManifest, tag string) (v1.Descriptor, bool) {
	for _, d := range index.Manifests {
		if tagOf(d) == tag {
			return d, true
		}
	}
	if images := imagesOf(index); tag == latest && len(images) == 1 && tagOf(images[0]) == "" {
		return images[0], true
	}
	return v1.Descriptor{}, false
}

// tagOf returns the tag of an entry. Some tools write a whole reference.
func tagOf(d v1.Descriptor) string {
	ref := d.Annotations[refName]
	if _, tag, ok := cutTag(ref); ok {
		return tag
	}
	if strings.Contains(ref, "/") {
		return latest
	}
	return ref
}

// imagesOf returns the entries of index.json that a user would call images.
func imagesOf(index *v1.IndexManifest) []v1.Descriptor {
	return slices.DeleteFunc(slices.Clone(index.Manifests), func(d v1.Descriptor) bool {
		artifact := d.ArtifactType != "" && !types.MediaType(d.ArtifactType).IsConfig()
		return artifact || strings.HasSuffix(tagOf(d), "_accelerated")
	})
}

func tagsOf(index *v1.IndexManifest) []string {
	tags := []string{}
	for _, d := range index.Manifests {
		if tag := tagOf(d); tag != "" && !slices.Contains(tags, tag) {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags
}
