package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// referrersStart is how long the referrers API is asked alone: where it answers, the
	// tag need not be looked at.
	referrersStart = 200 * time.Millisecond
	// referrersGrace is how long it may take once an artifact was found under the tag. Both are
	// short, since a pull has a second for all of its look-up.
	referrersGrace = 250 * time.Millisecond
)

// outcome is what one way of looking for an artifact led to.
type outcome struct {
	artifact *Artifact // nil if there is none
	err      error
	hint     string // what there is instead of an artifact of the image, "" for nothing
}

// FindArtifact returns the index artifact of an image: listed in the image index
// that the image was found through, or among the referrers of its manifest, or
// listed under the accelerated tag. When one of these places has several, the
// one that covers most layers of the image is returned, of equals one with a
// trace, and of these the one with the smallest digest. One that is not valid is skipped and logged.
// Where [Config].Trust requires signatures, those without a valid one do not count.
//
// Some registries never answer when they are asked for referrers. So the tag is looked at while
// they take their time, and if it has an artifact they are not waited for long.
//
// Errors wrap [ErrNoArtifact] when every place was looked at in vain, [ErrUntrusted] when only
// artifacts without a trusted signature were found, or else what [Client.Resolve] returns.
func (c *Client) FindArtifact(ctx context.Context, image *Image) (*Artifact, error) {
	best, err := c.best(ctx, image, image.artifacts)
	if best != nil || (err != nil && !errors.Is(err, ErrUntrusted)) {
		return best, err
	}
	elsewhere, elsewhereErr := c.findElsewhere(ctx, image)
	if err != nil && errors.Is(elsewhereErr, ErrNoArtifact) {
		return nil, err
	}
	return elsewhere, elsewhereErr
}

// findElsewhere looks for the index artifact of an image in the places that the image itself does
// not name.
func (c *Client) findElsewhere(ctx context.Context, image *Image) (*Artifact, error) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // whichever is not waited for
	referrers, tagged := make(chan outcome, 1), make(chan outcome, 1)
	running.Go(func() { referrers <- c.amongReferrers(ctx, image) })
	start := time.NewTimer(referrersStart)
	defer start.Stop()
	select {
	case byReferrers := <-referrers:
		if byReferrers.artifact != nil {
			return byReferrers.artifact, nil
		}
		return found(image, byReferrers, c.underTag(ctx, image))
	case <-start.C:
	}
	running.Go(func() { tagged <- c.underTag(ctx, image) })
	select {
	case byReferrers := <-referrers:
		if byReferrers.artifact != nil {
			return byReferrers.artifact, nil
		}
		return found(image, byReferrers, <-tagged)
	case byTag := <-tagged:
		return c.awaitReferrers(ctx, image, referrers, byTag)
	}
}

// awaitReferrers waits for the referrers of an image, not long if an artifact was found already.
func (c *Client) awaitReferrers(ctx context.Context, image *Image, referrers <-chan outcome, byTag outcome) (*Artifact, error) {
	if byTag.artifact == nil {
		return found(image, <-referrers, byTag)
	}
	grace := time.NewTimer(referrersGrace)
	defer grace.Stop()
	select {
	case byReferrers := <-referrers:
		return found(image, byReferrers, byTag)
	case <-grace.C:
		c.log.InfoContext(ctx, "the referrers API does not answer; the index is that of the accelerated tag", "image", image.Name.String())
		return byTag.artifact, nil
	}
}

// found chooses between what two ways have led to. An artifact outweighs any error of the other
// way.
func found(image *Image, byReferrers, byTag outcome) (*Artifact, error) {
	for _, o := range []outcome{byReferrers, byTag} {
		if o.artifact != nil {
			return o.artifact, nil
		}
	}
	for _, o := range []outcome{byReferrers, byTag} {
		if o.err != nil {
			return nil, o.err
		}
	}
	return nil, fmt.Errorf("looking for the index of %s (%s): %w%s; \"brisk convert\" makes one", image.Name, image.Digest, ErrNoArtifact, byTag.hint)
}

// amongReferrers looks among the referrers of an image.
func (c *Client) amongReferrers(ctx context.Context, image *Image) outcome {
	listed, err := c.referrers(ctx, image)
	if err != nil {
		return outcome{err: err}
	}
	best, err := c.best(ctx, image, listed)
	return outcome{artifact: best, err: err}
}

// underTag looks under the accelerated tag of an image.
func (c *Client) underTag(ctx context.Context, image *Image) outcome {
	tag, ok := image.Name.(name.Tag)
	if !ok {
		return outcome{}
	}
	tag = AcceleratedTag(tag)
	index, err := c.indexUnder(ctx, tag)
	if index == nil || err != nil {
		return outcome{err: err}
	}
	listed := artifactsOf(index)
	best, err := c.best(ctx, image, listed)
	if len(listed) == 0 || anyOf(listed, image) {
		return outcome{artifact: best, err: err}
	}
	return outcome{artifact: best, err: err, hint: hintOf(tag, index, image)}
}

// hintOf says of what an accelerated image index has artifacts, if not of an image.
func hintOf(tag name.Tag, index *v1.IndexManifest, image *Image) string {
	base, err := block.ParseDigest(index.Annotations[AnnotationBase])
	switch {
	case err != nil || base != image.root:
		return "; the tag has moved since its index was made"
	case slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == image.Descriptor.Digest }):
		return fmt.Sprintf("; %s has one for other platforms only", tag)
	case slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.MediaType.IsIndex() }):
		return "" // the image may be listed there
	default:
		return fmt.Sprintf("; %s is the image in full mode, with its index", tag)
	}
}

// anyOf reports whether artifacts that an image index lists may be of the image.
func anyOf(listed []v1.Descriptor, image *Image) bool {
	return slices.ContainsFunc(listed, func(d v1.Descriptor) bool { return candidate(d, image, d.ArtifactType) })
}
