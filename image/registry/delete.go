package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ErrNoDelete says that a registry does not delete manifests over its API, or not by a tag.
var ErrNoDelete = errors.New("the registry does not allow to delete this over its API")

// DeleteManifest deletes the manifest that a digest names, or a tag. What is not there is no error. Many registries
// delete no tag alone, and some nothing at all: then the error wraps [ErrNoDelete]. A registry may remove all tags
// of a manifest that is deleted by its digest.
func (c *Client) DeleteManifest(ctx context.Context, ref name.Reference) error {
	doing := "deleting " + ref.String()
	options, err := c.deleting(ref.Context()).options(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err = remote.Delete(ref, options...); err == nil {
		return nil
	}
	err = registryError(ctx, doing, err)
	status, ok := errors.AsType[*StatusError](err)
	switch {
	case !ok:
		return err
	case notFound(err):
		return nil
	case unsupported(status):
		return fmt.Errorf("%w: %w", ErrNoDelete, err)
	default:
		return err
	}
}

// unsupported reports whether a registry refuses a method, or a tag where it wants a digest.
func unsupported(status *StatusError) bool {
	if status.Code == http.StatusMethodNotAllowed || status.Code == http.StatusNotImplemented {
		return true
	}
	said, ok := errors.AsType[*transport.Error](status.Err)
	return ok && status.Code == http.StatusBadRequest && slices.ContainsFunc(said.Errors, func(d transport.Diagnostic) bool {
		return d.Code == transport.UnsupportedErrorCode || d.Code == transport.DigestInvalidErrorCode || d.Code == transport.TagInvalidErrorCode
	})
}

// deleting returns the session to delete what is in a repository.
func (c *Client) deleting(repo name.Repository) *session {
	key := sessionKey{repository: repo.String(), push: true, remove: true}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[key]; s != nil {
		return s
	}
	s := c.newSession(repo, true)
	s.scopes = []string{repo.Scope(transport.DeleteScope)}
	if !c.plainHTTP(repo.RegistryStr()) {
		s.base = &tlsOnly{next: s.base}
	}
	c.sessions[key] = s
	return s
}
