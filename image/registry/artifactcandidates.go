package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// maxCandidates is the most artifacts looked at for the index of one image, start-up artifacts
	// aside.
	maxCandidates = 16
	// maxUntyped is the most manifests fetched in one place to find an index, where a registry does
	// not say which of them are start-up artifacts: old ones stay when traces are pushed.
	maxUntyped = 256
	// maxStartups is the most artifacts looked at for the traces of one image.
	maxStartups = 4
	// defaultStartupGrace is that of [Config].StartupGrace.
	defaultStartupGrace = 100 * time.Millisecond
)

// fetched is an artifact of one kind or the other; neither if it is something else or is gone.
type fetched struct {
	index   *Artifact
	startup *Startup
	// untrusted says why it is not used, nil if it may be.
	untrusted error
}

// isArtifact reports whether an image index lists an artifact of ours.
func isArtifact(d v1.Descriptor) bool {
	return d.ArtifactType == ArtifactType || d.ArtifactType == StartupType
}

// candidate leaves out what cannot be an artifact of the image of the given type. Some
// registries give the media type of the configuration as artifact type, so that one is not
// proof of anything.
func candidate(d v1.Descriptor, image *Image, artifactType string) bool {
	switch d.ArtifactType {
	case artifactType, "", string(emptyMediaType):
	default:
		return false
	}
	subject, annotated := d.Annotations[AnnotationSubject]
	return d.MediaType.IsImage() && (!annotated || subject == image.Digest.String())
}

// best returns the best index artifact of the image among those that one place lists, with the
// newest start-up artifact; nil if there is no index. If there are only some that are not trusted
// the error wraps [ErrUntrusted].
func (c *Client) best(ctx context.Context, image *Image, listed []v1.Descriptor) (*Artifact, error) {
	var indexes, startups []v1.Descriptor
	for _, d := range listed {
		switch {
		case candidate(d, image, ArtifactType): // also what may be either
			indexes = append(indexes, d)
		case candidate(d, image, StartupType):
			startups = append(startups, d)
		}
	}
	if len(indexes) == 0 {
		return nil, nil
	}
	var running sync.WaitGroup
	defer running.Wait()
	startupCtx, cancel := context.WithCancel(ctx)
	defer cancel() // if it is not waited for
	newest := make(chan *Startup, 1)
	running.Go(func() { newest <- c.newestStartup(startupCtx, image, startups) })
	got, err := c.indexes(ctx, image, indexes)
	if err != nil {
		return nil, err
	}
	best := bestIndex(got, image)
	if best == nil {
		return nil, untrustedIndex(got, image)
	}
	grace := time.NewTimer(c.cfg.StartupGrace)
	defer grace.Stop()
	var typed *Startup
	select {
	case typed = <-newest:
	case <-grace.C:
		c.log.InfoContext(ctx, "the start-up artifact of an image is not waited for", "image", image.Name.String())
	}
	best.Startup = newerStartup(append(got, fetched{startup: typed}), image)
	return best, nil
}

// indexes fetches the manifests that may be index artifacts of an image, until one is or
// [maxCandidates] were something else than start-up artifacts. Those that are listed as index
// artifacts come first, those that have a date, as start-up artifacts do, last, the newest first.
func (c *Client) indexes(ctx context.Context, image *Image, listed []v1.Descriptor) (all []fetched, err error) {
	slices.SortStableFunc(listed, func(a, b v1.Descriptor) int {
		dateA, _ := createdOf(a.Annotations)
		dateB, _ := createdOf(b.Annotations)
		return cmp.Or(cmp.Compare(indexRank(a), indexRank(b)), dateB.Compare(dateA))
	})
	listed = listed[:min(len(listed), maxUntyped)]
	for left := maxCandidates; left > 0 && len(listed) > 0 && bestIndex(all, image) == nil; {
		n := min(left, len(listed))
		got, err := c.artifacts(ctx, image, listed[:n])
		if err != nil {
			return nil, err
		}
		for _, f := range got {
			if f.startup == nil {
				left--
			}
		}
		all, listed = append(all, got...), listed[n:]
	}
	return all, nil
}

// untrustedIndex says why the first index of the image that is not trusted is not, nil if there is
// none.
func untrustedIndex(got []fetched, image *Image) error {
	for _, f := range got {
		if f.index != nil && f.untrusted != nil && f.index.Subject == image.Digest {
			return f.untrusted
		}
	}
	return nil
}

func indexRank(d v1.Descriptor) int {
	if d.ArtifactType == ArtifactType {
		return 0
	}
	if _, dated := createdOf(d.Annotations); !dated {
		return 1
	}
	return 2
}

// BestArtifact returns the index artifact that readers take for an image with the given layers, nil for none: the
// one that covers most layers, of equals one that has a trace, and of these the one with the smallest digest. An image
// that was converted before there were predictions keeps the artifact without.
func BestArtifact(artifacts []*Artifact, layers []block.Digest) *Artifact {
	var best *Artifact
	covered := -1
	for _, a := range artifacts {
		n := 2 * a.covers(layers)
		if len(a.Traces) > 0 {
			n++
		}
		if n > covered || (n == covered && bytes.Compare(a.Digest[:], best.Digest[:]) < 0) {
			best, covered = a, n
		}
	}
	return best
}

// bestIndex returns the best index artifact of the image.
func bestIndex(got []fetched, image *Image) *Artifact {
	layers := make([]block.Digest, len(image.Layers))
	for i, layer := range image.Layers {
		layers[i] = layer.Digest
	}
	var artifacts []*Artifact
	for _, f := range got {
		if f.index != nil && f.untrusted == nil && f.index.Subject == image.Digest {
			artifacts = append(artifacts, f.index)
		}
	}
	return BestArtifact(artifacts, layers)
}

// NewestStartup returns the start-up artifact that readers take of several of one image, nil for none: the newest, of equals the
// one with the smallest digest.
func NewestStartup(startups []*Startup) *Startup {
	var best *Startup
	for _, s := range startups {
		if best == nil || cmp.Or(s.Created.Compare(best.Created), bytes.Compare(best.Digest[:], s.Digest[:])) > 0 {
			best = s
		}
	}
	return best
}

// newerStartup returns the newest start-up artifact of the image.
func newerStartup(got []fetched, image *Image) *Startup {
	var startups []*Startup
	for _, f := range got {
		if f.startup != nil && f.untrusted == nil && f.startup.Subject == image.Digest {
			startups = append(startups, f.startup)
		}
	}
	return NewestStartup(startups)
}

// newestStartup returns the newest start-up artifact among those that a place lists as such; nil
// if there is none that can be had. Those that it lists with their date come first, the newest
// first; without dates the manifests have to be looked at.
func (c *Client) newestStartup(ctx context.Context, image *Image, listed []v1.Descriptor) *Startup {
	slices.SortStableFunc(listed, func(a, b v1.Descriptor) int {
		dateA, _ := createdOf(a.Annotations)
		dateB, _ := createdOf(b.Annotations)
		return cmp.Or(dateB.Compare(dateA), cmp.Compare(a.Digest.Hex, b.Digest.Hex))
	})
	for len(listed) > 0 {
		n := 1
		if _, dated := createdOf(listed[0].Annotations); !dated {
			n = min(len(listed), maxStartups)
		}
		got, err := c.artifacts(ctx, image, listed[:n])
		if err != nil {
			c.log.InfoContext(ctx, "the start-up artifact of an image cannot be had", "image", image.Name.String(), "error", err)
			return nil
		}
		if s := newerStartup(got, image); s != nil {
			return s
		}
		listed = listed[n:min(len(listed), maxStartups)]
	}
	return nil
}

// artifacts fetches manifests that a place lists for an image. One that is broken must not hide
// one that is not: it is skipped and logged.
func (c *Client) artifacts(ctx context.Context, image *Image, listed []v1.Descriptor) ([]fetched, error) {
	got := make([]fetched, len(listed))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(smallFetches)
	for i, d := range listed {
		group.Go(func() error {
			var err error
			got[i], err = c.trustedArtifact(groupCtx, image.Name.Context(), d)
			if errors.Is(err, ErrInvalid) {
				c.log.WarnContext(ctx, "skipping an artifact", "image", image.Name.String(), "digest", d.Digest.String(), "error", err)
				return nil
			}
			return err
		})
	}
	return got, group.Wait()
}

// trustedArtifact fetches a manifest and returns the artifact it is, and whether it may be used. The
// signatures of what is listed as an artifact are fetched together with it.
func (c *Client) trustedArtifact(ctx context.Context, repo name.Repository, d v1.Descriptor) (fetched, error) {
	digest, err := block.ParseDigest(d.Digest.String())
	if err != nil {
		return fetched{}, nil //nolint:nilerr // no manifest that can be had
	}
	if !isArtifact(d) || !c.RequiresSignature(repo) {
		f, err := c.artifact(ctx, repo, d)
		if err != nil || f.index == nil && f.startup == nil {
			return f, err
		}
		return f.trusted(c.trusted(ctx, repo, digest))
	}
	var f fetched
	var signed *signature.Signature
	var signedErr error
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) { f, err = c.artifact(groupCtx, repo, d); return err })
	group.Go(func() error { signed, signedErr = c.trusted(groupCtx, repo, digest); return nil })
	if err := group.Wait(); err != nil {
		return fetched{}, err
	}
	return f.trusted(signed, signedErr)
}

// trusted returns the artifact with the signature for which it is used, or why it is not. After any
// other error there is none.
func (f fetched) trusted(s *signature.Signature, err error) (fetched, error) {
	if errors.Is(err, ErrUntrusted) {
		f.untrusted = err
		return f, nil
	}
	if err != nil {
		return fetched{}, err
	}
	if f.index != nil {
		f.index.Signature = s
	}
	if f.startup != nil {
		f.startup.Signature = s
	}
	return f, nil
}

// artifact fetches a manifest and returns the artifact it is.
func (c *Client) artifact(ctx context.Context, repo name.Repository, d v1.Descriptor) (fetched, error) {
	got, err := c.manifest(ctx, repo.Digest(d.Digest.String()))
	if notFound(err) || (errors.Is(err, ErrInvalid) && !isArtifact(d)) {
		return fetched{}, nil
	}
	if err != nil {
		return fetched{}, err
	}
	var f fetched
	if f.startup, err = ParseStartup(got.Manifest); err == nil {
		return f, nil
	}
	if d.ArtifactType != StartupType {
		f.index, err = ParseArtifact(got.Manifest)
	}
	if err != nil && !isArtifact(d) {
		return fetched{}, nil
	}
	if err != nil {
		return fetched{}, fmt.Errorf("reading artifact %s of %s: %w", d.Digest, repo, err)
	}
	return f, nil
}
