package upkeep

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// defaultGrace is how old what is superseded has to be.
const defaultGrace = time.Hour

// CollectConfig configures [Collect]. The zero value has the defaults.
type CollectConfig struct {
	// Suffix ends accelerated tags. Default "_accelerated".
	Suffix string
	// Grace is how old a start-up artifact has to be to be removed once it is superseded: a conversion that is running may list it still.
	// Indexes have no date: they are only removed with a Grace below 0, which says that no conversion is running. Default an hour.
	Grace time.Duration
	// DeletedTags also removes accelerated tags whose own tag is gone, with their artifacts. Images that were copied by their
	// accelerated tag alone look the same.
	DeletedTags bool
	// Remove removes what is found. Otherwise it is only reported.
	Remove bool
	// Now returns the time. Default [time.Now].
	Now func() time.Time
}

// Collection is what was removed, or would be.
type Collection struct {
	Repository string `json:"repository"`
	DryRun     bool   `json:"dryRun"`
	Removed    []Item `json:"removed"`
	// Kept is what may be of no use any more, with the reason why it is kept.
	Kept []Item `json:"kept"`
	// Freed is as in [Removal].
	Freed int64 `json:"freedBytes"`
}

// Collect finds what conversions have left in a repository and nothing uses any more: artifacts whose image is gone, artifacts that are
// superseded by better or newer ones and that no tag lists, and accelerated tags whose images or own tag are gone. It finds what
// tags and referrers lead to; other manifests without a tag are left to the registry.
//
// Errors are those of [Remove].
func Collect(ctx context.Context, store Store, repo name.Repository, cfg CollectConfig) (*Collection, error) {
	if cfg.Suffix == "" {
		cfg.Suffix = registry.AcceleratedSuffix
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	v, err := take(ctx, store, repo)
	if err != nil {
		return nil, fmt.Errorf("collecting garbage in %s: %w", repo, err)
	}
	c := &collector{plan: v.newPlan(), cfg: cfg, kept: []Item{}, listers: v.listers()}
	c.planTags()
	c.artifacts()
	c.entriesOfGone()
	for _, need := range c.needs() {
		c.keep(need.Digest)
		c.spare(need.Digest, "is listed by "+need.By[0])
	}
	found := &Collection{
		Repository: repo.String(), DryRun: !cfg.Remove, Removed: append(c.items(), c.entryItems()...), Kept: c.kept, Freed: c.freed(),
	}
	if !cfg.Remove {
		return found, nil
	}
	if err := c.apply(ctx, store); err != nil {
		return nil, fmt.Errorf("collecting garbage in %s: %w", repo, err)
	}
	return found, nil
}

// collector is one call of Collect.
type collector struct {
	*plan

	cfg     CollectConfig
	kept    []Item
	listers map[block.Digest][]string
}

func (c *collector) spare(digest block.Digest, reason string) {
	c.kept = append(c.kept, c.item(digest, reason))
}

// planTags plans the accelerated tags that are of no use, with what they list but for what belongs to images that other tags name.
func (c *collector) planTags() {
	v, images := c.inventory, make(map[block.Digest]bool)
	for _, tag := range v.names {
		base, ok := strings.CutSuffix(tag, c.cfg.Suffix)
		if !ok || derived(tag) || !v.isAccelerated(tag) {
			continue
		}
		_, there := v.tags[base]
		if _, unreadable := v.broken[base]; unreadable {
			there = true
		}
		switch {
		case c.allGone(tag):
			c.tags[tag] = "none of the images that it lists is in the repository"
		case there:
			continue
		case c.cfg.DeletedTags:
			c.tags[tag] = fmt.Sprintf("the tag %s is gone", base)
		default:
			c.kept = append(c.kept, Item{
				Kind: KindTag, Name: v.repo.Tag(tag).String(), Digest: v.tags[tag],
				Reason: fmt.Sprintf("the tag %s is gone, or the image was copied without it", base),
			})
			continue
		}
		c.addTree(v.tags[tag], images)
	}
	for image := range images {
		if !c.isListed(image) {
			continue
		}
		for _, m := range v.bySubject[image] {
			c.keep(m.digest)
		}
	}
}

// allGone reports whether no image that a tag lists is there.
func (c *collector) allGone(tag string) bool {
	v, absent := c.inventory, []block.Digest(nil)
	for _, d := range v.manifests[v.tags[tag]].members {
		if isAttestation(d) {
			continue
		}
		digest, err := block.ParseDigest(d.Digest.String())
		if err != nil || !v.gone(digest) {
			return false
		}
		absent = append(absent, digest)
	}
	c.absent = append(c.absent, absent...)
	return len(absent) > 0
}

// artifacts plans the artifacts that are of no use, and images in full mode that nothing lists.
func (c *collector) artifacts() {
	digests := make([]block.Digest, 0, len(c.inventory.manifests))
	for digest := range c.inventory.manifests {
		digests = append(digests, digest)
	}
	slices.SortFunc(digests, compareDigests)
	for _, digest := range digests {
		m := c.inventory.manifests[digest]
		if m == nil || c.isListed(digest) {
			continue
		}
		switch m.kind {
		case KindIndex, KindStartup:
			c.artifact(m)
		case KindFull:
			c.superseded(m, "no tag lists it", time.Time{})
		default:
		}
	}
}

// isListed reports whether a tag that stays lists a manifest, or whether it is dealt with already.
func (c *collector) isListed(digest block.Digest) bool {
	if _, planned := c.manifests[digest]; planned {
		return true
	}
	return slices.ContainsFunc(c.listers[digest], func(tag string) bool {
		_, removed := c.tags[tag]
		return !removed
	})
}

// artifact plans to remove an artifact that no tag lists if its image is gone, or has another one that readers take.
func (c *collector) artifact(m *manifest) {
	v := c.inventory
	if v.gone(m.subject) {
		c.absent = append(c.absent, m.subject)
		c.remove(m, fmt.Sprintf("the image %s is not in the repository", m.subject))
		return
	}
	image := v.manifests[m.subject]
	if image == nil || (image.kind != KindImage && image.kind != KindFull) {
		return
	}
	used, created := v.bestIndex(image), time.Time{}
	if m.kind == KindStartup {
		used, created = v.newestStartup(image), m.startup.Created
	}
	if used != nil && used != m {
		c.superseded(m, fmt.Sprintf("superseded by %s", used.digest), created)
	}
}

// superseded plans to remove something that was made at a time, zero if that is not known.
func (c *collector) superseded(m *manifest, reason string, created time.Time) {
	age := c.cfg.Now().Sub(created)
	switch {
	case c.cfg.Grace < 0 || (!created.IsZero() && age >= c.cfg.Grace):
		c.remove(m, reason)
	case created.IsZero():
		c.spare(m.digest, reason+", but has no date: a conversion that is running may list it still")
	default:
		c.spare(m.digest, fmt.Sprintf("%s, but is only %s old", reason, age.Round(time.Second)))
	}
}

// entriesOfGone plans to remove artifacts that are gone from the tags that stand in for the referrers API.
func (c *collector) entriesOfGone() {
	v := c.inventory
	for _, tag := range v.names {
		if _, ok := fallbackOf(tag); !ok {
			continue
		}
		for _, d := range v.manifests[v.tags[tag]].members {
			digest, err := block.ParseDigest(d.Digest.String())
			if err == nil && isOurs(d) && v.gone(digest) {
				c.entries[tag] = true
			}
		}
	}
}

func (c *collector) entryItems() []Item {
	var items []Item
	for _, tag := range c.inventory.names {
		if c.entries[tag] {
			items = append(items, Item{
				Kind: KindEntry, Name: c.inventory.repo.Tag(tag).String(), Digest: c.inventory.tags[tag], Reason: "lists artifacts that are gone",
			})
		}
	}
	return items
}
