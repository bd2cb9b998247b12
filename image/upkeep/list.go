package upkeep

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// Listing is what is accelerated in a repository.
type Listing struct {
	Repository string `json:"repository"`
	Tags       []Tag  `json:"tags"`
	// Incomplete says why the registry has not listed the referrers of all images, "" if it has. Only what tags list is known then.
	Incomplete string `json:"incomplete,omitempty"`
}

// Tag is a tag with its acceleration. Sizes are in bytes, of distinct blobs as they are stored.
type Tag struct {
	Tag    string       `json:"tag"`
	Digest block.Digest `json:"digest"`
	// Modes are the modes that the tag was converted in: "index", "full", both, or none.
	Modes []string `json:"modes"`
	// Platforms are the images that the tag names, Indexed those with an index, in either mode.
	Platforms int `json:"platforms"`
	Indexed   int `json:"indexed"`
	// Accelerated is the accelerated tag, "" if there is none. Stale is set if it was made from another digest than
	// the tag has now.
	Accelerated string `json:"accelerated,omitempty"`
	Stale       bool   `json:"stale"`
	// Size is that of the images of all platforms, FullSize that of those in full mode.
	Size     int64 `json:"size"`
	FullSize int64 `json:"fullSize"`
	// IndexSize is that of the indexes, IndexPercent its share of the images that they belong to.
	IndexSize    int64   `json:"indexSize"`
	IndexPercent float64 `json:"indexPercentOfImage"`
	// Traces counts recorded traces, Predicted predicted ones. Startup is the size of recorded traces and bundles.
	Traces      int   `json:"traces"`
	Predicted   int   `json:"predictedTraces"`
	StartupSize int64 `json:"startupSize"`
	// ImageSignatures counts the signatures of the tag and its images, IndexSignatures those of indexes and start-up artifacts.
	// That they are there does not mean that they are valid.
	ImageSignatures int `json:"imageSignatures"`
	IndexSignatures int `json:"indexSignatures"`
	// Unreadable says why what the tag names cannot be read.
	Unreadable string `json:"unreadable,omitempty"`
}

// List returns the tags of a repository with their acceleration, in the order of their names. Accelerated tags are part of the tag
// that they were made for, if that is there; tags that are made of digests are left out. An accelerated tag
// has a suffix, "" for the default.
func List(ctx context.Context, reader Reader, repo name.Repository, suffix string) (*Listing, error) {
	if suffix == "" {
		suffix = registry.AcceleratedSuffix
	}
	v := newInventory(reader, repo)
	v.lenient = true
	if err := v.take(ctx, nil); err != nil {
		return nil, fmt.Errorf("listing %s: %w", repo, err)
	}
	list := &Listing{Repository: repo.String(), Tags: []Tag{}, Incomplete: v.failure}
	for _, tag := range v.names {
		if base, ok := strings.CutSuffix(tag, suffix); ok && v.isAccelerated(tag) {
			if _, there := v.tags[base]; there {
				continue
			}
		}
		m := v.manifests[v.tags[tag]]
		if !derived(tag) && m.kind != KindIndex && m.kind != KindStartup && m.kind != KindOther {
			list.Tags = append(list.Tags, v.describe(tag, suffix))
		}
	}
	for tag, why := range v.broken {
		if _, known := v.tags[tag]; !known {
			list.Tags = append(list.Tags, Tag{Tag: tag, Modes: []string{}, Unreadable: why})
		}
	}
	slices.SortFunc(list.Tags, func(a, b Tag) int { return strings.Compare(a.Tag, b.Tag) })
	return list, nil
}

// isAccelerated reports whether a tag names an accelerated image index.
func (v *inventory) isAccelerated(tag string) bool {
	digest, ok := v.tags[tag]
	return ok && v.manifests[digest].kind == KindAccelerated
}

// describe returns a tag with its acceleration.
func (v *inventory) describe(tag, suffix string) Tag {
	t := Tag{Tag: tag, Digest: v.tags[tag], Modes: []string{}, Unreadable: v.broken[tag]}
	images := v.images(t.Digest)
	t.Platforms = len(images)
	own := map[block.Digest]bool{t.Digest: true}
	for _, image := range images {
		own[image.digest] = true
	}
	for digest := range own {
		t.ImageSignatures += v.signatures(digest)
	}
	from := tag + suffix
	if v.isAccelerated(tag) {
		from = tag
	}
	var full []*manifest
	if v.isAccelerated(from) {
		t.Accelerated = from
		base := v.manifests[v.tags[from]].base
		t.Stale = from != tag && !base.IsZero() && base != t.Digest
		for _, image := range v.images(v.tags[from]) {
			if image.kind == KindFull && !own[image.digest] && own[image.source] {
				full = append(full, image)
			}
		}
	}
	t.Size, t.FullSize = distinct(images), distinct(full)
	v.describeIndexes(&t, images, full)
	return t
}

// describeIndexes adds what images and those in full mode have.
func (v *inventory) describeIndexes(t *Tag, images, full []*manifest) {
	var indexed, indexes, startups []*manifest
	platforms := make(map[block.Digest]bool) // those with an index, by the image that is not in full mode
	for _, image := range slices.Concat(images, full) {
		best := v.bestIndex(image)
		if best == nil {
			continue
		}
		mode, platform := "index", image.digest
		if image.kind == KindFull {
			mode = "full"
			if slices.Contains(full, image) {
				platform = image.source
			}
		}
		platforms[platform] = true
		if !slices.Contains(t.Modes, mode) {
			t.Modes = append(t.Modes, mode)
		}
		indexed, indexes = append(indexed, image), append(indexes, best)
		t.Predicted += len(best.artifact.Traces)
		t.IndexSignatures += v.signatures(best.digest)
		if newest := v.newestStartup(image); newest != nil {
			startups = append(startups, newest)
			t.IndexSignatures += v.signatures(newest.digest)
			t.Traces += len(newest.startup.Traces)
		}
	}
	slices.SortFunc(t.Modes, func(a, b string) int { return strings.Compare(b, a) }) // "index" first
	t.Indexed = len(platforms)
	t.IndexSize, t.StartupSize = distinct(indexes), distinct(startups)
	t.IndexPercent = 100 * float64(t.IndexSize) / float64(max(1, distinct(indexed)))
}

// distinct returns the size of the distinct blobs of manifests.
func distinct(manifests []*manifest) int64 {
	sizes := make(map[string]int64)
	for _, m := range manifests {
		for _, d := range m.blobs {
			sizes[d.Digest.String()] = d.Size
		}
	}
	var sum int64
	for _, size := range sizes {
		sum += size
	}
	return sum
}
