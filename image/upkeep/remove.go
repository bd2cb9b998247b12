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

// RemoveConfig configures [Remove]. The zero value has the defaults.
type RemoveConfig struct {
	// Suffix ends accelerated tags. Default "_accelerated".
	Suffix string
	// KeepShared keeps what other tags list, in place of removing nothing.
	KeepShared bool
	// DryRun removes nothing.
	DryRun bool
}

// Removal is what was removed, or would be.
type Removal struct {
	Repository string `json:"repository"`
	DryRun     bool   `json:"dryRun"`
	Removed    []Item `json:"removed"`
	// Kept is what other tags list, with KeepShared.
	Kept []Need `json:"kept,omitempty"`
	// Affected are other tags of the same images: these have lost their index too.
	Affected []string `json:"affected,omitempty"`
	// Freed is the size of blobs that nothing else in the repository refers to, as far as its tags show. The registry frees it with its next
	// garbage collection.
	Freed int64 `json:"freedBytes"`
}

// Remove removes the acceleration of images of one repository, not the images: the accelerated tags, images in full mode, indexes and start-up
// artifacts, and what signs those. Images named by a digest, and accelerated tags themselves, are accepted too.
// If nothing is accelerated, nothing is removed.
//
// If a tag that stays lists some of it the error is a [*NeededError], and nothing is removed. Other errors wrap
// [registry.ErrNoDelete], [ErrChanged], those of package registry, or the cause of ctx. After them, part of it may be removed; repeating the
// call removes the rest.
func Remove(ctx context.Context, store Store, refs []name.Reference, cfg RemoveConfig) (*Removal, error) {
	if cfg.Suffix == "" {
		cfg.Suffix = registry.AcceleratedSuffix
	}
	removal, err := remove(ctx, store, refs, cfg)
	if err != nil {
		return nil, fmt.Errorf("removing the acceleration of %s: %w", refs[0], err)
	}
	return removal, nil
}

func remove(ctx context.Context, store Store, refs []name.Reference, cfg RemoveConfig) (*Removal, error) {
	repo := refs[0].Context()
	var digests []block.Digest
	for _, ref := range refs {
		if ref.Context().String() != repo.String() {
			return nil, fmt.Errorf("%s is in another repository than %s", ref, refs[0])
		}
		if digest, err := block.ParseDigest(ref.Identifier()); err == nil {
			digests = append(digests, digest)
		}
	}
	v, err := take(ctx, store, repo, digests...)
	if err != nil {
		return nil, err
	}
	p := v.newPlan()
	named := make(map[string]bool)
	images := make(map[block.Digest]bool)
	for _, ref := range refs {
		if err := p.add(ref, cfg.Suffix, named, images); err != nil {
			return nil, err
		}
	}
	removal := &Removal{Repository: repo.String(), DryRun: cfg.DryRun}
	needs := p.needs()
	if len(needs) > 0 && !cfg.KeepShared {
		return nil, &NeededError{needs}
	}
	for _, need := range needs {
		p.keep(need.Digest)
	}
	removal.Kept = needs
	if len(p.manifests) > 0 {
		removal.Affected = v.affected(p, named, images)
	}
	removal.Removed, removal.Freed = p.items(), p.freed()
	if cfg.DryRun {
		return removal, nil
	}
	return removal, p.apply(ctx, store)
}

// add plans to remove the acceleration of what ref names. It notes the tags that are named, and the images.
func (p *plan) add(ref name.Reference, suffix string, named map[string]bool, images map[block.Digest]bool) error {
	v := p.inventory
	var roots []block.Digest
	if digest, err := block.ParseDigest(ref.Identifier()); err == nil {
		if v.manifests[digest] == nil {
			return fmt.Errorf("%s: %w", ref, block.ErrNotFound)
		}
		roots = append(roots, digest)
	} else {
		base := ref.Identifier()
		if v.isAccelerated(base) {
			named[base] = true
			p.tags[base] = "was named"
			roots = append(roots, v.tags[base])
			base, _ = strings.CutSuffix(base, suffix)
		}
		tag := base + suffix
		digest, there := v.tags[base]
		if !there && !v.isAccelerated(tag) {
			return fmt.Errorf("%s: %w", ref, block.ErrNotFound)
		}
		if there {
			named[base] = true
			roots = append(roots, digest)
		}
		if v.isAccelerated(tag) {
			p.tags[tag] = "is the accelerated tag of " + base
			roots = append(roots, v.tags[tag])
		}
	}
	for _, root := range roots {
		p.addTree(root, images)
	}
	return nil
}

// addTree plans to remove the artifacts and images in full mode that a manifest lists, and the artifacts of its
// images.
func (p *plan) addTree(root block.Digest, images map[block.Digest]bool) {
	v := p.inventory
	v.walk(root, func(m *manifest) {
		switch m.kind {
		case KindIndex, KindStartup:
			p.remove(m, "is listed by what was named")
		case KindFull:
			p.remove(m, "was made by a conversion")
		case KindImage:
			images[m.digest] = true
			for _, referrer := range slices.Concat(v.referrers(m.digest, KindIndex), v.referrers(m.digest, KindStartup)) {
				p.remove(referrer, "belongs to the image")
			}
		default:
		}
	})
}

// affected returns the tags that were not named and that name one of the images.
func (v *inventory) affected(p *plan, named map[string]bool, images map[block.Digest]bool) []string {
	var tags []string
	for _, tag := range v.names {
		_, removed := p.tags[tag]
		if removed || named[tag] || derived(tag) {
			continue
		}
		if slices.ContainsFunc(v.images(v.tags[tag]), func(m *manifest) bool { return images[m.digest] }) {
			tags = append(tags, v.repo.Tag(tag).String())
		}
	}
	return tags
}
