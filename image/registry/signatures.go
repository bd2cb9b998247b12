package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/internal/block"
)

// ErrUntrusted says that there is an artifact, but no signature of it by a trusted key.
var ErrUntrusted = errors.New("artifact without a trusted signature")

const (
	// signatureTimeout is how long the signatures of one artifact may take.
	signatureTimeout = 10 * time.Second
	// maxSignatureManifests is the most manifests with signatures that are looked at among the
	// referrers of an artifact.
	maxSignatureManifests = 8
	// maxKnownSignatures bounds the signatures that are remembered: more than the images of a node.
	maxKnownSignatures = 4096
	// signAttempts is how often a signature is added, if others replace the signatures meanwhile.
	signAttempts = 5
)

// Trust says which artifacts are used. It is safe for concurrent use.
type Trust interface {
	// Keys returns the keys of which one must have signed an artifact in a repository for it to be
	// used, and whether that is required at all. No keys trust no artifact.
	Keys(repo name.Repository) (keys []*signature.Key, required bool)
}

// CheckSignature returns nil if an artifact in a repository may be used: because it needs no
// signature, or because it has one by a key that is trusted now. s is what was found with it, nil
// if nothing was. It asks no registry. Errors wrap [ErrUntrusted].
func (c *Client) CheckSignature(repo name.Repository, artifact block.Digest, s *signature.Signature) error {
	keys, required := c.trustedKeys(repo)
	if !required {
		return nil
	}
	if s == nil {
		return fmt.Errorf("artifact %s of %s: %w: no signature is known", artifact, repo, ErrUntrusted)
	}
	if _, err := s.Verify(keys, artifact); err != nil {
		return fmt.Errorf("artifact of %s: %w: %w", repo, ErrUntrusted, err)
	}
	return nil
}

// RequiresSignature reports whether artifacts in a repository are only used if they are signed.
func (c *Client) RequiresSignature(repo name.Repository) bool {
	_, required := c.trustedKeys(repo)
	return required
}

func (c *Client) trustedKeys(repo name.Repository) ([]*signature.Key, bool) {
	if c.cfg.Trust == nil {
		return nil, false
	}
	return c.cfg.Trust.Keys(repo)
}

// trusted returns the signature for which an artifact is used, nil if it needs none. Errors wrap
// [ErrUntrusted] if there is none, or else what [Client.Resolve] returns.
func (c *Client) trusted(ctx context.Context, repo name.Repository, artifact block.Digest) (*signature.Signature, error) {
	keys, required := c.trustedKeys(repo)
	if !required {
		return nil, nil
	}
	if known, ok := c.signatures.Get(artifact); ok {
		if _, err := known.Verify(keys, artifact); err == nil {
			return &known, nil
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("artifact %s of %s: %w: no key is trusted for this repository", artifact, repo, ErrUntrusted)
	}
	found, err := c.FindSignature(ctx, repo, artifact, keys)
	if err != nil {
		return nil, err
	}
	c.signatures.Add(artifact, found)
	return &found, nil
}

// signed is what one way of looking for a signature led to.
type signed struct {
	signature signature.Signature
	err       error
	tag       bool // it was under the tag
}

// FindSignature returns a signature of a manifest by one of the keys: under the tag that cosign
// makes of its digest, or among its referrers, which are asked at the same time. Errors wrap
// [ErrUntrusted] if there is none, or else what [Client.Resolve] returns.
func (c *Client) FindSignature(ctx context.Context, repo name.Repository, digest block.Digest, keys []*signature.Key) (signature.Signature, error) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithTimeout(ctx, signatureTimeout)
	defer cancel() // whichever is not waited for
	results := make(chan signed, 2)
	running.Go(func() {
		s, err := c.signedAt(ctx, repo, digest, signature.Tag(repo, digest), keys)
		results <- signed{signature: s, err: err, tag: true}
	})
	running.Go(func() {
		s, err := c.signedAmongReferrers(ctx, repo, digest, keys)
		results <- signed{signature: s, err: err}
	})
	var byTag, byReferrers error
	for range 2 {
		got := <-results
		switch {
		case got.err == nil:
			return got.signature, nil
		case got.tag:
			byTag = got.err
		default:
			byReferrers = got.err
		}
	}
	if !errors.Is(byTag, ErrUntrusted) {
		return signature.Signature{}, byTag
	}
	if ctx.Err() != nil || errors.Is(byReferrers, ErrUntrusted) {
		return signature.Signature{}, byReferrers
	}
	// Registries that have no referrers answer in many ways. The tag is where signatures are.
	return signature.Signature{}, fmt.Errorf("%w; its referrers are not known: %v", byTag, byReferrers) //nolint:errorlint // it is no reason of its own
}

// signedAmongReferrers looks for a signature among the referrers of a manifest.
func (c *Client) signedAmongReferrers(ctx context.Context, repo name.Repository, digest block.Digest, keys []*signature.Key) (signature.Signature, error) {
	var manifests []v1.Descriptor
	err := c.try(ctx, repo, needReferrers, func(s *session, patience time.Duration) error {
		listed, err := s.referrers(ctx, digest, patience)
		if err != nil {
			return err
		}
		for _, d := range listed {
			if holdsSignatures(d) && len(manifests) < maxSignatureManifests {
				manifests = append(manifests, d)
			}
		}
		if len(manifests) == 0 {
			return errNothing
		}
		return nil
	})
	if err != nil && !errors.Is(err, errNothing) {
		return signature.Signature{}, err
	}
	last := fmt.Errorf("artifact %s of %s: %w: it has no signature", digest, repo, ErrUntrusted)
	for _, d := range manifests {
		found, err := c.signedAt(ctx, repo, digest, repo.Digest(d.Digest.String()), keys)
		if err == nil || !errors.Is(err, ErrUntrusted) {
			return found, err
		}
		last = err
	}
	return signature.Signature{}, last
}

// holdsSignatures reports whether a referrer may have signatures. Some registries give the media type
// of the configuration as artifact type.
func holdsSignatures(d v1.Descriptor) bool {
	return d.MediaType.IsImage() && (d.ArtifactType == signature.ArtifactType || d.ArtifactType == string(types.OCIConfigJSON) || d.ArtifactType == "")
}

// signedAt looks for a signature of a manifest in the manifest at a reference.
func (c *Client) signedAt(ctx context.Context, repo name.Repository, digest block.Digest, at name.Reference, keys []*signature.Key) (signature.Signature, error) {
	set, err := c.signatureSet(ctx, repo, digest, at)
	if errors.Is(err, signature.ErrInvalid) || errors.Is(err, ErrInvalid) {
		return signature.Signature{}, fmt.Errorf("artifact %s of %s: %w: %w", digest, repo, ErrUntrusted, err)
	}
	if err != nil {
		return signature.Signature{}, err
	}
	return c.verified(ctx, repo, set, keys)
}

// signatureSet returns the signatures of a manifest that the one at a reference lists, none if
// there is no such manifest.
func (c *Client) signatureSet(ctx context.Context, repo name.Repository, digest block.Digest, at name.Reference) (*signature.Set, error) {
	got, err := c.manifest(ctx, at)
	if notFound(err) {
		return signature.NewSet(repo, digest)
	}
	if err != nil {
		return nil, err
	}
	return signature.ParseSet(repo, digest, got.Manifest)
}

// verified returns a signature by one of the keys. Payloads are fetched only if none of those that
// are known has one.
func (c *Client) verified(ctx context.Context, repo name.Repository, set *signature.Set, keys []*signature.Key) (signature.Signature, error) {
	found, _, err := set.Verify(keys)
	missing := set.Missing()
	if err == nil || len(missing) == 0 {
		return found, untrusted(repo, err)
	}
	contents := make([][]byte, len(missing))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(smallFetches)
	for i, d := range missing {
		group.Go(func() error {
			digest, err := block.ParseDigest(d.Digest.String())
			if err != nil {
				return nil //nolint:nilerr // it cannot be fetched, and others may be
			}
			contents[i], err = c.ReadBlob(groupCtx, repo, digest, d.Size, signature.MaxPayload)
			if notFound(err) || errors.Is(err, ErrInvalid) {
				return nil // damaged: others may be right
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return signature.Signature{}, fmt.Errorf("reading signatures in %s: %w", repo, err)
	}
	for _, content := range contents {
		if content != nil {
			set.AddPayload(content)
		}
	}
	found, _, err = set.Verify(keys)
	return found, untrusted(repo, err)
}

func untrusted(repo name.Repository, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("artifact of %s: %w: %w", repo, ErrUntrusted, err)
}

// Sign adds a signature of a manifest to those that are stored in its repository, where cosign
// looks for them, unless one by the same key is there. It reports whether it has added one.
// Signatures by other keys stay.
func (c *Client) Sign(ctx context.Context, repo name.Repository, digest block.Digest, signer *signature.Signer) (bool, error) {
	doing := fmt.Sprintf("signing %s in %s", digest, repo)
	subject, err := c.manifest(ctx, repo.Digest(digest.String()))
	if err != nil {
		return false, fmt.Errorf("%s: %w", doing, err)
	}
	for attempt := range signAttempts {
		set, err := c.signatureSet(ctx, repo, digest, signature.Tag(repo, digest))
		if err != nil {
			return false, fmt.Errorf("%s: %w", doing, err)
		}
		_, err = c.verified(ctx, repo, set, []*signature.Key{signer.Key})
		if err == nil {
			return attempt > 0, nil
		}
		if !errors.Is(err, ErrUntrusted) {
			return false, fmt.Errorf("%s: %w", doing, err)
		}
		if err := signer.Sign(ctx, set); err != nil {
			return false, err
		}
		if err := c.pushSignatures(ctx, repo, set, digest, subject.Descriptor); err != nil {
			return false, err
		}
		// Somebody may have done the same at the same time: then one of the two is lost.
	}
	return false, fmt.Errorf("%s: others have replaced the signatures %d times", doing, signAttempts)
}

func (c *Client) pushSignatures(ctx context.Context, repo name.Repository, set *signature.Set, digest block.Digest, subject v1.Descriptor) error {
	manifest, config, payload, err := set.Encode(subject)
	if err != nil {
		return err
	}
	if err := c.PushBlob(ctx, repo, config, types.OCIConfigJSON); err != nil {
		return err
	}
	if err := c.PushBlob(ctx, repo, payload, signature.PayloadMediaType); err != nil {
		return err
	}
	return c.putManifest(ctx, signature.Tag(repo, digest), manifest, types.OCIManifestSchema1)
}
