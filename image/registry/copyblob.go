package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/internal/block"
)

// CopyBlob stores a blob of one repository in another unless it is there already. Registries are
// asked to mount a blob of their own, with the right to read where it is; others are sent it while it is
// read. The registry verifies the digest.
// Errors are those of [Client.OpenBlob] and [Client.NewUpload].
func (c *Client) CopyBlob(ctx context.Context, from, to name.Repository, d v1.Descriptor) (err error) {
	if from.String() == to.String() {
		return nil
	}
	doing := fmt.Sprintf("copying blob %s from %s to %s", d.Digest, from, to)
	digest, err := block.ParseDigest(d.Digest.String())
	if err != nil {
		return fmt.Errorf("%s: %w: %w", doing, ErrInvalid, err)
	}
	u := c.newUpload(ctx, c.mounting(from, to), "")
	there, err := u.sender.mount(ctx, from, digest)
	if err != nil || there {
		if err != nil {
			err = networkError(ctx, doing, err)
		}
		return errors.Join(err, u.Abort())
	}
	blob, err := c.OpenBlob(ctx, from, digest, d.Size)
	if err != nil {
		return errors.Join(err, u.Abort())
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	if n, err := io.Copy(u, blob); err != nil || n != d.Size {
		if err == nil {
			err = fmt.Errorf("%s: %w: %d bytes, not %d", doing, ErrInvalid, n, d.Size)
		}
		return errors.Join(err, u.Abort())
	}
	return u.Commit(digest)
}

// mount reports whether a blob is in the repository, perhaps now because the registry had it in
// another one. A registry that refuses to mount is none to fail for.
func (s *sender) mount(ctx context.Context, from name.Repository, digest block.Digest) (bool, error) {
	there := false
	err := s.again(ctx, func() (err error) {
		there, err = s.stored(ctx, digest)
		return err
	})
	repo := s.session.repo
	if there || err != nil || from.RegistryStr() != repo.RegistryStr() {
		return there, err
	}
	u := &url.URL{
		Scheme: "https", Host: repo.RegistryStr(), Path: fmt.Sprintf("/v2/%s/blobs/uploads/", repo.RepositoryStr()),
		RawQuery: url.Values{"mount": {digest.String()}, "from": {from.RepositoryStr()}}.Encode(),
	}
	resp, err := s.ask(ctx, http.MethodPost, u, nil, nil)
	if err != nil {
		return false, err
	}
	if resp.StatusCode == http.StatusCreated {
		return true, discard(resp.Body)
	}
	if resp.StatusCode != http.StatusAccepted {
		return false, discard(resp.Body)
	}
	// An upload has begun, which is as good as any.
	return false, s.follow(resp, http.StatusAccepted)
}
