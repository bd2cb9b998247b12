package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

// CopyBlob stores a blob of one repository in another unless it is there already. Registries are
// asked to mount a blob of their own; others are sent it while it is read. The registry verifies the digest.
// Errors are those of [Client.OpenBlob] and [Client.NewUpload].
func (c *Client) CopyBlob(ctx context.Context, from, to name.Repository, digest block.Digest, size int64) (err error) {
	if from.String() == to.String() {
		return nil
	}
	doing := fmt.Sprintf("copying blob %s from %s to %s", digest.Short(), from, to)
	u := c.NewUpload(ctx, to, "")
	there, err := u.sender.mount(ctx, from, digest)
	if err != nil || there {
		if err != nil {
			err = networkError(ctx, doing, err)
		}
		return errors.Join(err, u.Abort())
	}
	blob, err := c.OpenBlob(ctx, from, digest, size)
	if err != nil {
		return errors.Join(err, u.Abort())
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	if n, err := io.Copy(u, blob); err != nil || n != size {
		if err == nil {
			err = fmt.Errorf("%s: %w: %d bytes, not %d", doing, ErrInvalid, n, size)
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
