package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/internal/block"
)

// Manifest is a manifest or image index as it is stored.
type Manifest struct {
	Digest    block.Digest
	MediaType types.MediaType
	Content   []byte
}

// ReadManifest returns the manifest that ref names. Errors are those of [Client.Resolve].
func (c *Client) ReadManifest(ctx context.Context, ref name.Reference) (*Manifest, error) {
	got, err := c.manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &Manifest{Digest: block.Sum(got.Manifest), MediaType: got.MediaType, Content: got.Manifest}, nil
}

// HasManifest reports whether ref names the manifest with a digest.
func (c *Client) HasManifest(ctx context.Context, ref name.Reference, digest block.Digest) (bool, error) {
	got, err := c.manifest(ctx, ref)
	if notFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return block.Sum(got.Manifest) == digest, nil
}

// PutManifest stores a manifest under ref. What it lists must be there. If it has a subject it is
// found by the referrers API afterwards, or by the fallback tag.
func (c *Client) PutManifest(ctx context.Context, ref name.Reference, m *Manifest) error {
	return c.putManifest(ctx, ref, m.Content, m.MediaType)
}

// Referrers lists the manifests whose subject is the one with a digest. Errors are those of
// [Client.Resolve].
func (c *Client) Referrers(ctx context.Context, repo name.Repository, digest block.Digest) ([]v1.Descriptor, error) {
	listed, err := c.session(repo, false).referrers(ctx, digest, 0)
	if notFound(err) {
		return nil, nil
	}
	if len(listed) > maxEntries {
		return nil, fmt.Errorf("listing the referrers of %s: %w: %d manifests, the limit is %d", digest, ErrInvalid, len(listed), maxEntries)
	}
	return listed, err
}

// maxEntries is the most referrers of one manifest that are copied.
const maxEntries = 4096

// mounting returns the session to push to a repository what is in another one.
func (c *Client) mounting(from, to name.Repository) *session {
	if from.RegistryStr() != to.RegistryStr() || from.RepositoryStr() == to.RepositoryStr() {
		return c.session(to, true)
	}
	key := sessionKey{repository: to.String(), push: true, mount: from.RepositoryStr()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[key]; s != nil {
		return s
	}
	s := c.newSession(to, true)
	s.scopes = append(s.scopes, from.Scope(transport.PullScope))
	if !c.plainHTTP(to.RegistryStr()) {
		s.base = &tlsOnly{next: s.base}
	}
	c.sessions[key] = s
	return s
}

// SignatureTags returns the tags among tags that belong to a manifest: signatures, attestations
// and SBOMs that are found by a tag made of its digest, as cosign stores them.
func SignatureTags(tags []string, digest block.Digest) []string {
	prefix := "sha256-" + digest.Hex() + "."
	return slices.DeleteFunc(slices.Clone(tags), func(tag string) bool { return !strings.HasPrefix(tag, prefix) })
}
