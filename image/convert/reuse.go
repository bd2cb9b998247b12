package convert

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// found is an index that is in a registry already.
type found struct {
	index registry.IndexBlob
	layer registry.Layer // which it describes
	repo  name.Repository
}

// lookUp finds the indexes there are: those of the image itself, of what its
// accelerated tag named before, of the images the caller knows, and of the tags
// spelled most alike. It stops when every layer has one.
//
// A place of their own for the indexes of a repository was considered, a tag for
// each layer digest: it would find every index with one request, but fill the
// tag list that people read and that retention rules work on. Neighbouring tags
// share most layers, so a bounded number of them is nearly as good.
func (c *conversion) lookUp(ctx context.Context) error {
	c.artifacts = make([]*registry.Artifact, len(c.images))
	for i, image := range c.images {
		if c.skipped[i] != "" {
			continue
		}
		a, err := c.client.FindArtifact(ctx, image)
		if errors.Is(err, registry.ErrNoArtifact) {
			continue
		}
		if err != nil {
			return err
		}
		c.artifacts[i] = a
		if c.compressor == nil {
			c.learn(image.Name.Context(), a.Indexes)
		}
	}
	if c.compressor != nil {
		return c.lookUpFull(ctx)
	}
	if c.cfg.Reindex {
		clear(c.reusable)
		return nil
	}
	for _, step := range []func(context.Context) error{c.lookUpTag, c.lookUpCheckpoints, c.lookUpKnown, c.lookUpNeighbours} {
		if c.missing() == 0 {
			return nil
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// learn notes the indexes of layers of the image.
func (c *conversion) learn(repo name.Repository, indexes []registry.IndexBlob) {
	for _, b := range indexes {
		w := c.byDigest[b.Layer]
		if w == nil || w.layer.DiffID != b.DiffID {
			continue
		}
		if _, ok := c.reusable[b.Layer]; !ok {
			c.reusable[b.Layer] = found{index: b, layer: w.layer, repo: repo}
		}
	}
}

// missing counts the layers without index.
func (c *conversion) missing() int { return len(c.works) - len(c.reusable) }

func (c *conversion) lookUpTag(ctx context.Context) error {
	tag, ok := c.tag()
	if !ok {
		return nil
	}
	return c.learnTag(ctx, tag)
}

func (c *conversion) learnTag(ctx context.Context, tag name.Tag) error {
	if c.compressor != nil {
		return c.learnFullTag(ctx, tag)
	}
	artifacts, err := c.client.ArtifactsUnder(ctx, tag)
	if err != nil {
		return err
	}
	for _, a := range artifacts {
		c.learn(tag.Context(), a.Indexes)
	}
	return nil
}

func (c *conversion) lookUpKnown(ctx context.Context) error {
	for _, ref := range c.cfg.ReuseFrom {
		listing, err := c.client.ResolveAll(ctx, ref)
		if err != nil {
			return err
		}
		if c.compressor != nil {
			if err := c.learnFullKnown(ctx, ref, listing.Images); err != nil {
				return err
			}
			continue
		}
		for _, image := range listing.Images {
			a, err := c.client.FindArtifact(ctx, image)
			if errors.Is(err, registry.ErrNoArtifact) {
				c.cfg.Logger.InfoContext(ctx, "known image has no index", "image", ref.String(), "platform", registry.FormatPlatform(image.Platform()))
				continue
			}
			if err != nil {
				return err
			}
			c.learn(ref.Context(), a.Indexes)
		}
	}
	return nil
}

// lookUpNeighbours looks at other accelerated tags of the repository. Registries
// that do not list tags, or not to everybody, are no reason to fail.
func (c *conversion) lookUpNeighbours(ctx context.Context) error {
	if c.cfg.NeighbourTags < 0 {
		return nil
	}
	own, ok := c.tag()
	if !ok || own.Context().String() != c.ref.Context().String() {
		own = c.ref.Context().Tag("latest" + c.cfg.Suffix)
	}
	tags, err := c.client.Tags(ctx, c.ref.Context())
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		c.cfg.Logger.InfoContext(ctx, "looking for indexes under other tags", "error", err)
		return nil
	}
	for _, tag := range nearest(tags, own.TagStr(), c.cfg.Suffix, c.cfg.NeighbourTags) {
		if c.missing() == 0 {
			return nil
		}
		err := c.learnTag(ctx, c.ref.Context().Tag(tag))
		if err != nil && (errors.Is(err, registry.ErrInvalid) || errors.Is(err, block.ErrNotFound)) {
			c.cfg.Logger.InfoContext(ctx, "skipping an unusable tag", "tag", tag, "error", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nearest returns at most n accelerated tags: those that share the longest
// beginning with own first, of these the last in the order of the alphabet, which
// of versions and dates is the newest.
func nearest(tags []string, own, suffix string, n int) []string {
	candidates := make([]string, 0, len(tags))
	for _, tag := range tags {
		if tag != own && (strings.HasSuffix(tag, suffix) || strings.HasSuffix(tag, registry.AcceleratedSuffix)) {
			candidates = append(candidates, tag)
		}
	}
	slices.SortFunc(candidates, func(a, b string) int {
		if pa, pb := commonPrefix(a, own), commonPrefix(b, own); pa != pb {
			return pb - pa
		}
		return strings.Compare(b, a)
	})
	return candidates[:min(n, len(candidates))]
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
