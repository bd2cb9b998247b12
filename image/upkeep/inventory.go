package upkeep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// parallel is how many manifests are read at a time.
	parallel = 8
	// maxManifests is the most manifests of one repository that are looked at.
	maxManifests = 100_000
	// maxDepth is how deep manifests may refer to each other.
	maxDepth = 8
)

// Reader reads repositories. [registry.Client] implements it.
type Reader interface {
	Tags(ctx context.Context, repo name.Repository) ([]string, error)
	ReadManifest(ctx context.Context, ref name.Reference) (*registry.Manifest, error)
	Referrers(ctx context.Context, repo name.Repository, digest block.Digest) ([]v1.Descriptor, error)
}

// inventory is everything that the tags of a repository lead to.
type inventory struct {
	reader Reader
	repo   name.Repository
	names  []string                // of the tags, sorted
	tags   map[string]block.Digest // what they name
	broken map[string]string       // tags that cannot be read, and why
	// lenient goes on without the referrers of a registry that does not list them. failure says why it has not.
	lenient bool
	failure string

	mu        sync.Mutex
	manifests map[block.Digest]*manifest // nil for one that is listed but not there
	bySubject map[block.Digest][]*manifest
	listed    map[block.Digest][]string // see listers
}

func newInventory(reader Reader, repo name.Repository) *inventory {
	return &inventory{
		reader: reader, repo: repo,
		tags: make(map[string]block.Digest), broken: make(map[string]string),
		manifests: make(map[block.Digest]*manifest), bySubject: make(map[block.Digest][]*manifest),
	}
}

// take reads a repository: what its tags lead to, and what more digests do.
func take(ctx context.Context, reader Reader, repo name.Repository, more ...block.Digest) (*inventory, error) {
	v := newInventory(reader, repo)
	return v, v.take(ctx, more)
}

func (v *inventory) take(ctx context.Context, more []block.Digest) error {
	names, err := v.reader.Tags(ctx, v.repo)
	if err != nil {
		return err
	}
	if len(names) > maxManifests {
		return fmt.Errorf("reading %s: it has %d tags, the limit is %d", v.repo, len(names), maxManifests)
	}
	if err := v.readTags(ctx, names); err != nil {
		return err
	}
	frontier := more
	for _, tag := range v.names {
		frontier = append(frontier, v.tags[tag])
		subjectOf, _, _ := strings.Cut(tag, ".") // cosign's tags have an ending
		if subject, ok := fallbackOf(subjectOf); ok {
			frontier = append(frontier, subject)
		}
	}
	if err := v.follow(ctx, frontier); err != nil {
		return err
	}
	for _, m := range v.manifests {
		if m != nil && !m.subject.IsZero() {
			v.bySubject[m.subject] = append(v.bySubject[m.subject], m)
		}
	}
	for _, referrers := range v.bySubject {
		slices.SortFunc(referrers, byDigest)
	}
	return nil
}

func byDigest(a, b *manifest) int { return strings.Compare(a.digest.Hex(), b.digest.Hex()) }

// readTags reads what tags name. Tags that have vanished meanwhile are left out.
func (v *inventory) readTags(ctx context.Context, names []string) error {
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, tag := range names {
		group.Go(func() error {
			m, err := v.read(groupCtx, v.repo.Tag(tag))
			v.mu.Lock()
			defer v.mu.Unlock()
			switch {
			case errors.Is(err, registry.ErrInvalid):
				v.broken[tag] = err.Error()
			case err != nil:
				return err
			}
			if m != nil {
				v.tags[tag] = m.digest
				v.manifests[m.digest] = m
			}
			return nil
		})
	}
	err := group.Wait()
	for tag := range v.tags {
		v.names = append(v.names, tag)
	}
	slices.Sort(v.names)
	return err
}

// read returns a manifest, nil if it is not there.
func (v *inventory) read(ctx context.Context, ref name.Reference) (*manifest, error) {
	got, err := v.reader.ReadManifest(ctx, ref)
	if errors.Is(err, block.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parse(got)
}

// follow reads what manifests list and what refers to them.
func (v *inventory) follow(ctx context.Context, frontier []block.Digest) error {
	seen := make(map[block.Digest]bool)
	for depth := 0; len(frontier) > 0; depth++ {
		frontier = slices.DeleteFunc(frontier, func(d block.Digest) bool {
			known := seen[d]
			seen[d] = true
			return known
		})
		if depth > maxDepth || len(seen) > maxManifests {
			return fmt.Errorf("reading %s: %w: more than %d manifests, or they refer to each other deeper than %d", v.repo, registry.ErrInvalid, maxManifests, maxDepth)
		}
		next := make([][]block.Digest, len(frontier))
		group, groupCtx := errgroup.WithContext(ctx)
		group.SetLimit(parallel)
		for i, digest := range frontier {
			group.Go(func() error {
				var err error
				next[i], err = v.visit(groupCtx, digest)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		frontier = slices.Concat(next...)
	}
	return nil
}

// visit reads a manifest if that was not done, and returns what it lists and what refers to it.
func (v *inventory) visit(ctx context.Context, digest block.Digest) ([]block.Digest, error) {
	v.mu.Lock()
	m, known := v.manifests[digest]
	v.mu.Unlock()
	if !known {
		var err error
		m, err = v.read(ctx, v.repo.Digest(digest.String()))
		if err != nil && !errors.Is(err, registry.ErrInvalid) {
			return nil, err
		}
		if err != nil && m == nil {
			m = &manifest{digest: digest, kind: KindUnknown}
		}
		v.mu.Lock()
		v.manifests[digest] = m
		v.mu.Unlock()
	}
	referrers, err := v.listReferrers(ctx, digest)
	if err != nil {
		return nil, err
	}
	var found []block.Digest
	if m != nil {
		if !m.subject.IsZero() {
			found = append(found, m.subject)
		}
		for _, d := range m.members {
			if isAttestation(d) && !isOurs(d) {
				continue
			}
			referrers = append(referrers, d)
		}
	}
	for _, d := range referrers {
		if parsed, err := block.ParseDigest(d.Digest.String()); err == nil {
			found = append(found, parsed)
		}
	}
	return found, nil
}

// listReferrers asks for the referrers of a manifest, unless that has failed already.
func (v *inventory) listReferrers(ctx context.Context, digest block.Digest) ([]v1.Descriptor, error) {
	v.mu.Lock()
	failed := v.failure != ""
	v.mu.Unlock()
	if failed {
		return nil, nil
	}
	referrers, err := v.reader.Referrers(ctx, v.repo, digest)
	if err == nil || !v.lenient || ctx.Err() != nil {
		return referrers, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failure = err.Error()
	return nil, nil
}

// gone reports whether a manifest is not in the repository.
func (v *inventory) gone(digest block.Digest) bool {
	m, known := v.manifests[digest]
	return known && m == nil
}

// images returns the images that a manifest is or lists, also in nested image indexes.
func (v *inventory) images(digest block.Digest) []*manifest {
	var found []*manifest
	v.walk(digest, func(m *manifest) {
		if (m.kind == KindImage || m.kind == KindFull) && !slices.Contains(found, m) {
			found = append(found, m)
		}
	})
	return found
}

// walk calls visit for a manifest and everything that it lists.
func (v *inventory) walk(digest block.Digest, visit func(*manifest)) {
	seen := make(map[block.Digest]bool)
	var step func(block.Digest)
	step = func(digest block.Digest) {
		m := v.manifests[digest]
		if m == nil || seen[digest] {
			return
		}
		seen[digest] = true
		visit(m)
		for _, d := range m.members {
			if isAttestation(d) && !isOurs(d) {
				continue
			}
			if parsed, err := block.ParseDigest(d.Digest.String()); err == nil {
				step(parsed)
			}
		}
	}
	step(digest)
}

// referrers returns what refers to a manifest, of one kind.
func (v *inventory) referrers(subject block.Digest, kind Kind) []*manifest {
	return slices.DeleteFunc(slices.Clone(v.bySubject[subject]), func(m *manifest) bool { return m.kind != kind })
}

// bestIndex returns the index artifact of an image that readers take, nil if there is none.
func (v *inventory) bestIndex(image *manifest) *manifest {
	var layers []block.Digest
	for _, d := range image.blobs[min(1, len(image.blobs)):] {
		if digest, err := block.ParseDigest(d.Digest.String()); err == nil {
			layers = append(layers, digest)
		}
	}
	var artifacts []*registry.Artifact
	for _, m := range v.referrers(image.digest, KindIndex) {
		artifacts = append(artifacts, m.artifact)
	}
	if best := registry.BestArtifact(artifacts, layers); best != nil {
		return v.manifests[best.Digest]
	}
	return nil
}

// newestStartup returns the start-up artifact of an image that readers take, nil if there is none.
func (v *inventory) newestStartup(image *manifest) *manifest {
	var startups []*registry.Startup
	for _, m := range v.referrers(image.digest, KindStartup) {
		startups = append(startups, m.startup)
	}
	if newest := registry.NewestStartup(startups); newest != nil {
		return v.manifests[newest.Digest]
	}
	return nil
}

// signatures counts the signatures of a manifest: among its referrers, and under a tag made of its digest.
func (v *inventory) signatures(digest block.Digest) int {
	n := 0
	for _, m := range v.referrers(digest, KindOther) {
		if m.signs {
			n++
		}
	}
	if _, ok := v.tags["sha256-"+digest.Hex()+".sig"]; ok {
		n++
	}
	return n
}

// fallbackOf returns whose referrers a tag lists that stands in for the referrers API.
func fallbackOf(tag string) (block.Digest, bool) {
	text, ok := strings.CutPrefix(tag, "sha256-")
	if !ok {
		return block.Digest{}, false
	}
	digest, err := block.ParseDigest("sha256:" + text)
	return digest, err == nil
}

// derived reports whether a tag is made of a digest: a fallback for referrers, or one of cosign.
func derived(tag string) bool {
	text, _, _ := strings.Cut(tag, ".")
	_, ok := fallbackOf(text)
	return ok
}

// listers returns the tags that name a manifest, or list it, without those that are made of digests.
func (v *inventory) listers() map[block.Digest][]string {
	if v.listed != nil {
		return v.listed
	}
	v.listed = make(map[block.Digest][]string)
	for _, tag := range v.names {
		if derived(tag) {
			continue
		}
		v.walk(v.tags[tag], func(m *manifest) { v.listed[m.digest] = append(v.listed[m.digest], tag) })
	}
	return v.listed
}
