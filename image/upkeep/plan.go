package upkeep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// Store reads and changes repositories. [registry.Client] implements it.
type Store interface {
	Reader
	PutManifest(ctx context.Context, ref name.Reference, m *registry.Manifest) error
	DeleteManifest(ctx context.Context, ref name.Reference) error
}

// Item is something that is removed, or would be.
type Item struct {
	Kind Kind `json:"kind"`
	// Name is a tag, or a manifest by its digest.
	Name   string       `json:"name"`
	Digest block.Digest `json:"digest"`
	// Subject is what an artifact refers to.
	Subject block.Digest `json:"subject,omitzero"`
	// Reason says why it is removed, or why it is kept.
	Reason string `json:"reason,omitempty"`
}

// Need is something that cannot be removed since tags list it.
type Need struct {
	Item
	By []string `json:"by"`
}

// NeededError says that tags list what was to be removed.
type NeededError struct{ Needs []Need }

// Error implements error.
func (e *NeededError) Error() string {
	need := e.Needs[0]
	text := fmt.Sprintf("the %s %s is still listed by %s", need.Kind, need.Digest, need.By[0])
	if more := len(need.By) - 1; more > 0 {
		text += fmt.Sprintf(" and %d other tags", more)
	}
	if more := len(e.Needs) - 1; more > 0 {
		text += fmt.Sprintf(", and so are %d other manifests by tags", more)
	}
	return text
}

// ErrChanged says that a repository has changed between reading it and removing something.
var ErrChanged = errors.New("the repository has changed meanwhile; run the command again")

// plan is what is going to be removed.
type plan struct {
	inventory *inventory
	tags      map[string]string       // and why
	manifests map[block.Digest]string // and why
	entries   map[string]bool         // fallback tags with entries of manifests that are gone
	absent    []block.Digest          // what is removed since they are gone
}

func (v *inventory) newPlan() *plan {
	return &plan{inventory: v, tags: make(map[string]string), manifests: make(map[block.Digest]string), entries: make(map[string]bool)}
}

// remove adds a manifest, with all that refers to it, and the tags that are made of its digest. An image that no conversion
// has made is never added.
func (p *plan) remove(m *manifest, reason string) {
	if _, known := p.manifests[m.digest]; known || m.kind == KindImage || m.kind == KindImageIndex || m.kind == KindUnknown {
		return
	}
	p.manifests[m.digest] = reason
	for _, referrer := range p.inventory.bySubject[m.digest] {
		p.remove(referrer, fmt.Sprintf("refers to the %s that is removed", m.kind))
	}
	for _, tag := range registry.SignatureTags(p.inventory.names, m.digest) {
		p.tags[tag] = fmt.Sprintf("belongs to the %s that is removed", m.kind)
	}
}

// keep takes a manifest out of the plan, with what it needs: what it refers to, and what refers to it.
func (p *plan) keep(digest block.Digest) {
	if _, planned := p.manifests[digest]; !planned {
		return
	}
	delete(p.manifests, digest)
	for _, tag := range registry.SignatureTags(p.inventory.names, digest) {
		delete(p.tags, tag)
	}
	for _, referrer := range p.inventory.bySubject[digest] {
		p.keep(referrer.digest)
	}
	if m := p.inventory.manifests[digest]; m != nil {
		p.keep(m.subject)
	}
}

// needs returns what of the plan tags list that stay.
func (p *plan) needs() []Need {
	var needs []Need
	for digest, tags := range p.inventory.listers() {
		if _, planned := p.manifests[digest]; !planned {
			continue
		}
		tags = slices.DeleteFunc(slices.Clone(tags), func(tag string) bool {
			_, removed := p.tags[tag]
			return removed
		})
		if len(tags) > 0 {
			needs = append(needs, Need{Item: p.item(digest, ""), By: p.inventory.full(tags)})
		}
	}
	slices.SortFunc(needs, func(a, b Need) int { return compareDigests(a.Digest, b.Digest) })
	return needs
}

// full returns tags with their repository.
func (v *inventory) full(tags []string) []string {
	names := make([]string, len(tags))
	for i, tag := range tags {
		names[i] = v.repo.Tag(tag).String()
	}
	return names
}

func (p *plan) item(digest block.Digest, reason string) Item {
	m := p.inventory.manifests[digest]
	return Item{Kind: m.kind, Name: p.inventory.repo.Digest(digest.String()).String(), Digest: digest, Subject: m.subject, Reason: reason}
}

// items returns what is removed: first the tags, and each manifest after those that refer to it.
func (p *plan) items() []Item {
	items := []Item{}
	for _, tag := range p.inventory.names {
		if reason, ok := p.tags[tag]; ok {
			items = append(items, Item{Kind: KindTag, Name: p.inventory.repo.Tag(tag).String(), Digest: p.inventory.tags[tag], Reason: reason})
		}
	}
	for _, digest := range p.order() {
		items = append(items, p.item(digest, p.manifests[digest]))
	}
	return items
}

// order returns the manifests, each after those that refer to it.
func (p *plan) order() []block.Digest {
	planned := make([]block.Digest, 0, len(p.manifests))
	for digest := range p.manifests {
		planned = append(planned, digest)
	}
	slices.SortFunc(planned, compareDigests)
	done := make(map[block.Digest]bool)
	var ordered []block.Digest
	var step func(block.Digest)
	step = func(digest block.Digest) {
		if _, ok := p.manifests[digest]; !ok || done[digest] {
			return
		}
		done[digest] = true
		for _, referrer := range p.inventory.bySubject[digest] {
			step(referrer.digest)
		}
		ordered = append(ordered, digest)
	}
	for _, digest := range planned {
		step(digest)
	}
	return ordered
}

func compareDigests(a, b block.Digest) int { return slices.Compare(a[:], b[:]) }

// freed returns the bytes of the blobs that nothing refers to any more, as far as the inventory shows.
func (p *plan) freed() int64 {
	sizes, kept := make(map[string]int64), make(map[string]bool)
	for digest, m := range p.inventory.manifests {
		if m == nil {
			continue
		}
		_, planned := p.manifests[digest]
		for _, d := range m.blobs {
			if planned {
				sizes[d.Digest.String()] = d.Size
			} else {
				kept[d.Digest.String()] = true
			}
		}
	}
	var sum int64
	for digest, size := range sizes {
		if !kept[digest] {
			sum += size
		}
	}
	return sum
}

// apply removes what is planned: first the tags, so that none names something incomplete.
func (p *plan) apply(ctx context.Context, store Store) error {
	if err := p.recheck(ctx); err != nil {
		return err
	}
	for _, tag := range p.inventory.names {
		if _, ok := p.tags[tag]; ok {
			if err := p.removeTag(ctx, store, tag); err != nil {
				return err
			}
		}
	}
	if err := p.removeEntries(ctx, store); err != nil {
		return err
	}
	for _, digest := range p.order() {
		if err := store.DeleteManifest(ctx, p.inventory.repo.Digest(digest.String())); err != nil {
			return err
		}
	}
	return nil
}

// recheck looks at the tags again that list artifacts, and at new ones: conversions and copies may run at the same time, and what they have
// listed since is not removed. The time that is left for them is that of the requests which follow.
func (p *plan) recheck(ctx context.Context) error {
	v := p.inventory
	names, err := v.reader.Tags(ctx, v.repo)
	if err != nil {
		return err
	}
	for _, tag := range names {
		before, known := v.tags[tag]
		_, planned := p.tags[tag]
		if derived(tag) && !planned || known && !planned && !v.isAccelerated(tag) {
			continue
		}
		m, err := v.read(ctx, v.repo.Tag(tag))
		if err != nil && !errors.Is(err, registry.ErrInvalid) {
			return err
		}
		if m == nil || m.digest == before {
			continue
		}
		if _, lost := p.manifests[m.digest]; planned || lost || slices.ContainsFunc(m.members, p.lists) {
			return fmt.Errorf("%s: %w", v.repo.Tag(tag), ErrChanged)
		}
	}
	for _, digest := range p.absent {
		m, err := v.read(ctx, v.repo.Digest(digest.String()))
		if err != nil || m != nil {
			return fmt.Errorf("%s: %w", digest, errors.Join(ErrChanged, err))
		}
	}
	return nil
}

// lists reports whether an entry of an image index is something that is removed.
func (p *plan) lists(d v1.Descriptor) bool {
	digest, err := block.ParseDigest(d.Digest.String())
	_, planned := p.manifests[digest]
	return err == nil && planned
}

// removeTag removes a tag, and the image index that it names unless another tag names or lists that too. The image index goes first, and
// most registries remove the tag with it: if somebody has moved the tag meanwhile, it is left alone.
func (p *plan) removeTag(ctx context.Context, store Store, tag string) error {
	v := p.inventory
	digest, ref := v.tags[tag], v.repo.Tag(tag)
	others := slices.DeleteFunc(slices.Clone(v.listers()[digest]), func(other string) bool {
		_, removed := p.tags[other]
		return removed
	})
	if len(others) > 0 {
		err := store.DeleteManifest(ctx, ref)
		if errors.Is(err, registry.ErrNoDelete) {
			return fmt.Errorf("%w; %s names or lists the same manifest", err, v.repo.Tag(others[0]))
		}
		return err
	}
	if err := store.DeleteManifest(ctx, v.repo.Digest(digest.String())); err != nil {
		return err
	}
	left, err := store.ReadManifest(ctx, ref)
	if errors.Is(err, block.ErrNotFound) || err == nil && left.Digest != digest {
		return nil
	}
	if err != nil {
		return err
	}
	return store.DeleteManifest(ctx, ref)
}

// removeEntries takes what is removed out of the tags that stand in for the referrers API.
func (p *plan) removeEntries(ctx context.Context, store Store) error {
	for _, tag := range p.inventory.names {
		subject, ok := fallbackOf(tag)
		if !ok || !p.concerns(tag, subject) {
			continue
		}
		if err := p.rewrite(ctx, store, tag); err != nil {
			return err
		}
	}
	return nil
}

// concerns reports whether a fallback tag lists something that is removed or gone.
func (p *plan) concerns(tag string, subject block.Digest) bool {
	if p.entries[tag] {
		return true
	}
	for _, m := range p.inventory.bySubject[subject] {
		if _, planned := p.manifests[m.digest]; planned {
			return true
		}
	}
	return false
}

// rewrite reads a fallback tag again, since others write to it, and removes it or writes it without what is removed
// or gone. Another client may have added something in between and lose it: the specification of the
// tag has no way around that.
func (p *plan) rewrite(ctx context.Context, store Store, tag string) error {
	ref := p.inventory.repo.Tag(tag)
	current, err := store.ReadManifest(ctx, ref)
	if errors.Is(err, block.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var listing v1.IndexManifest
	if err := json.Unmarshal(current.Content, &listing); err != nil {
		return fmt.Errorf("reading %s: %w: %w", ref, registry.ErrInvalid, err)
	}
	before := len(listing.Manifests)
	listing.Manifests = slices.DeleteFunc(listing.Manifests, p.obsolete)
	switch len(listing.Manifests) {
	case before:
		return nil
	case 0:
		p.inventory.tags[tag] = current.Digest
		return p.removeTag(ctx, store, tag)
	}
	content, err := json.Marshal(listing)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", ref, err)
	}
	return store.PutManifest(ctx, ref, &registry.Manifest{Digest: block.Sum(content), MediaType: types.OCIImageIndex, Content: content})
}

// obsolete reports whether an entry of a fallback tag is of something that is removed, or of something of ours that is gone.
func (p *plan) obsolete(d v1.Descriptor) bool {
	digest, err := block.ParseDigest(d.Digest.String())
	if err != nil {
		return false
	}
	_, planned := p.manifests[digest]
	return planned || (isOurs(d) && p.inventory.gone(digest))
}
