// Package transfer copies an image with everything that belongs to it: all platforms, attestations,
// indexes, traces and bundles, signatures and other referrers, and the accelerated tag.
//
// Digests do not change. Within one registry blobs are mounted, not copied. A blob that is there
// already is not sent again, so that a copy that was interrupted goes on. Tags come last: none of them names
// something incomplete.
package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// defaultParallel is how many blobs are copied at a time.
	defaultParallel = 4
	// maxDepth is how deep manifests may refer to each other: image indexes in each other, their
	// images, artifacts of these, signatures of those.
	maxDepth = 8
	// maxManifests is the most manifests of one copy.
	maxManifests = 4096
)

// Config configures [Copy]. The zero value has the defaults.
type Config struct {
	// Parallel is how many blobs are copied at a time. Default 4.
	Parallel int
	// Suffixes end the tags that are copied with that of the image, if they exist. Default
	// "_accelerated".
	Suffixes []string
	// Logger gets the unusual. nil discards.
	Logger *slog.Logger
}

// Result is what was copied.
type Result struct {
	Source      string       `json:"source"`
	Destination string       `json:"destination"`
	Digest      block.Digest `json:"digest"`
	// Manifests are the distinct manifests and image indexes, Referrers those among them that
	// have a subject, Blobs the distinct blobs and Bytes what they take.
	Manifests int   `json:"manifests"`
	Referrers int   `json:"referrers"`
	Blobs     int   `json:"blobs"`
	Bytes     int64 `json:"bytes"`
	// Tags are those that were written.
	Tags []string `json:"tags"`
	// Missing are the manifests that an image index lists and that its repository does not have.
	Missing []block.Digest `json:"missing,omitempty"`
}

// Copy copies the image that src names to dst. Errors are those of package registry.
func Copy(ctx context.Context, client *registry.Client, src, dst name.Reference, cfg Config) (*Result, error) {
	if cfg.Parallel <= 0 {
		cfg.Parallel = defaultParallel
	}
	if cfg.Suffixes == nil {
		cfg.Suffixes = []string{registry.AcceleratedSuffix}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c := &copying{
		client: client, from: src.Context(), to: dst.Context(), cfg: cfg,
		manifests: map[block.Digest]bool{}, blobs: map[block.Digest]bool{},
		result: Result{Source: src.String(), Destination: dst.String(), Tags: []string{}},
	}
	if err := c.run(ctx, src, dst); err != nil {
		return nil, fmt.Errorf("copying %s to %s: %w", src, dst, err)
	}
	return &c.result, nil
}

// copying is one call of Copy.
type copying struct {
	client   *registry.Client
	from, to name.Repository
	cfg      Config
	tags     []string // of the source, nil if it does not tell

	manifests map[block.Digest]bool // those that were copied
	result    Result

	mu    sync.Mutex
	blobs map[block.Digest]bool
}

func (c *copying) run(ctx context.Context, src, dst name.Reference) error {
	root, err := c.client.ReadManifest(ctx, src)
	if err != nil {
		return err
	}
	c.result.Digest = root.Digest
	if c.tags, err = c.client.Tags(ctx, c.from); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		c.cfg.Logger.InfoContext(ctx, "the tags of the source are not listed: signatures under tags are not copied", "error", err)
	}
	if err := c.tree(ctx, root, 0); err != nil {
		return err
	}
	accelerated, err := c.accelerated(ctx, src, dst)
	if err != nil {
		return err
	}
	for _, a := range accelerated {
		if err := c.tag(ctx, a.tag, a.manifest); err != nil {
			return err
		}
	}
	if tag, ok := dst.(name.Tag); ok {
		return c.tag(ctx, tag, root)
	}
	if dst.Identifier() != root.Digest.String() {
		return fmt.Errorf("the image has digest %s, not that of the destination", root.Digest)
	}
	return nil
}

// tagged is a manifest that gets a tag.
type tagged struct {
	tag      name.Tag
	manifest *registry.Manifest
}

// accelerated copies what the accelerated tags of the image list.
func (c *copying) accelerated(ctx context.Context, src, dst name.Reference) ([]tagged, error) {
	from, isTag := src.(name.Tag)
	to, intoTag := dst.(name.Tag)
	if !isTag || !intoTag {
		return nil, nil
	}
	var found []tagged
	for _, suffix := range c.cfg.Suffixes {
		m, err := c.client.ReadManifest(ctx, c.from.Tag(from.TagStr()+suffix))
		if errors.Is(err, block.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := c.tree(ctx, m, 0); err != nil {
			return nil, err
		}
		found = append(found, tagged{c.to.Tag(to.TagStr() + suffix), m})
	}
	return found, nil
}

func (c *copying) tag(ctx context.Context, tag name.Tag, m *registry.Manifest) error {
	there, err := c.client.HasManifest(ctx, tag, m.Digest)
	if err != nil {
		return err
	}
	if !there {
		if err := c.client.PutManifest(ctx, tag, m); err != nil {
			return err
		}
	}
	c.result.Tags = append(c.result.Tags, tag.String())
	return nil
}

// tree copies a manifest with all it refers to, and all that refers to it.
func (c *copying) tree(ctx context.Context, m *registry.Manifest, depth int) error {
	if c.manifests[m.Digest] {
		return nil
	}
	if depth > maxDepth || len(c.manifests) == maxManifests {
		return fmt.Errorf("%w: more than %d manifests, or they refer to each other deeper than %d", registry.ErrInvalid, maxManifests, maxDepth)
	}
	c.manifests[m.Digest] = true
	if err := c.content(ctx, m, depth); err != nil {
		return err
	}
	if err := c.client.PutManifest(ctx, c.to.Digest(m.Digest.String()), m); err != nil {
		return err
	}
	c.result.Manifests++
	referrers, err := c.client.Referrers(ctx, c.from, m.Digest)
	if err != nil {
		return err
	}
	for _, d := range referrers {
		if err := c.member(ctx, d, depth+1); err != nil {
			return err
		}
	}
	c.result.Referrers += len(referrers)
	for _, tag := range registry.SignatureTags(c.tags, m.Digest) {
		signature, err := c.client.ReadManifest(ctx, c.from.Tag(tag))
		if err != nil {
			return err
		}
		if err := c.tree(ctx, signature, depth+1); err != nil {
			return err
		}
		if err := c.tag(ctx, c.to.Tag(tag), signature); err != nil {
			return err
		}
	}
	return nil
}

// content copies what a manifest refers to.
func (c *copying) content(ctx context.Context, m *registry.Manifest, depth int) error {
	if m.MediaType.IsIndex() {
		index, err := v1.ParseIndexManifest(bytes.NewReader(m.Content))
		if err != nil {
			return fmt.Errorf("manifest %s: %w: %w", m.Digest, registry.ErrInvalid, err)
		}
		for _, d := range index.Manifests {
			if err := c.member(ctx, d, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(m.Content))
	if err != nil {
		return fmt.Errorf("manifest %s: %w: %w", m.Digest, registry.ErrInvalid, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.cfg.Parallel)
	for _, d := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
		if c.first(d) {
			group.Go(func() error { return c.blob(ctx, d) })
		}
	}
	return group.Wait()
}

// first reports whether a blob was not copied before.
func (c *copying) first(d v1.Descriptor) bool {
	digest, err := block.ParseDigest(d.Digest.String())
	if err != nil {
		return true // copying it is an error
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blobs[digest] {
		return false
	}
	c.blobs[digest] = true
	return true
}

func (c *copying) blob(ctx context.Context, d v1.Descriptor) error {
	err := c.client.CopyBlob(ctx, c.from, c.to, d)
	if errors.Is(err, block.ErrNotFound) && (len(d.URLs) > 0 || !d.MediaType.IsDistributable()) {
		c.cfg.Logger.InfoContext(ctx, "a layer that is not distributable is not in the registry", "digest", d.Digest.String())
		return nil
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.Blobs++
	c.result.Bytes += d.Size
	return nil
}

// member copies a manifest that another one lists.
func (c *copying) member(ctx context.Context, d v1.Descriptor, depth int) error {
	digest, err := block.ParseDigest(d.Digest.String())
	if err != nil {
		return fmt.Errorf("%w: %w", registry.ErrInvalid, err)
	}
	m, err := c.client.ReadManifest(ctx, c.from.Digest(digest.String()))
	if errors.Is(err, block.ErrNotFound) {
		// Registries accept image indexes that list more than they have, and tools make them.
		c.result.Missing = append(c.result.Missing, digest)
		return nil
	}
	if err != nil {
		return err
	}
	return c.tree(ctx, m, depth)
}
