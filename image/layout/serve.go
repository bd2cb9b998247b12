package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	digestHeader = "Docker-Content-Digest"
	octets       = "application/octet-stream"
)

// serve answers a request, of which rest is the path after the repository.
func (l *layout) serve(w http.ResponseWriter, r *http.Request, repository, rest string) {
	what, name, _ := strings.Cut(rest, "/")
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	if !reading && !l.write {
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", errReadOnly.Error())
		return
	}
	var err error
	switch {
	case what == "blobs" && strings.HasPrefix(name, "uploads/"):
		err = l.upload(w, r, repository, strings.TrimPrefix(name, "uploads/"))
	case what == "blobs" && reading:
		err = l.serveBlob(w, r, name)
	case what == "manifests" && reading:
		err = l.serveManifest(w, r, name)
	case what == "manifests" && r.Method == http.MethodPut:
		err = l.takeManifest(w, r, name)
	case what == "referrers" && reading:
		err = l.serveReferrers(w, name)
	case what == "tags" && name == "list" && reading:
		err = l.serveTags(w, repository)
	default:
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such request")
	}
	switch {
	case err == nil:
	case errors.Is(err, block.ErrNotFound):
		fail(w, http.StatusNotFound, "NAME_UNKNOWN", err.Error())
	default:
		fail(w, http.StatusBadRequest, "UNKNOWN", err.Error())
	}
}

// fail answers as the distribution specification says.
func fail(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, types.MediaType("application/json"), map[string]any{
		"errors": []map[string]string{{"code": code, "message": message}},
	})
}

func answer(w http.ResponseWriter, status int, mediaType types.MediaType, content any) {
	w.Header().Set("Content-Type", string(mediaType))
	w.WriteHeader(status)
	//nolint:errcheck,errchkjson // who asked has gone; the content is plain
	_ = json.NewEncoder(w).Encode(content)
}

func (l *layout) serveBlob(w http.ResponseWriter, r *http.Request, name string) error {
	digest, err := block.ParseDigest(name)
	if err != nil {
		return err
	}
	b, err := l.store.open(digest)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", octets)
	w.Header().Set(digestHeader, digest.String())
	http.ServeContent(w, r, "", time.Time{}, b)
	//nolint:errcheck // it was only read
	_ = b.Close()
	return nil
}

func (l *layout) serveManifest(w http.ResponseWriter, r *http.Request, name string) error {
	digest, mediaType, err := l.resolve(name)
	if err != nil {
		return err
	}
	content, err := l.manifest(digest)
	if err != nil {
		return err
	}
	if mediaType == "" {
		if mediaType, err = mediaTypeOf(content); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", string(mediaType))
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.Header().Set(digestHeader, digest.String())
	if r.Method == http.MethodGet {
		//nolint:errcheck,gosec // who asked has gone, and is no browser
		_, _ = w.Write(content)
	}
	return nil
}

// resolve returns the digest that a tag or digest names, and the media type if it is known.
func (l *layout) resolve(name string) (block.Digest, types.MediaType, error) {
	if strings.Contains(name, ":") {
		digest, err := block.ParseDigest(name)
		return digest, "", err
	}
	index, err := l.read()
	if err != nil {
		return block.Digest{}, "", err
	}
	d, ok := find(index, name)
	if !ok {
		return block.Digest{}, "", fmt.Errorf("tag %s: %w", name, block.ErrNotFound)
	}
	digest, err := block.ParseDigest(d.Digest.String())
	return digest, d.MediaType, err
}

// manifest reads a manifest.
func (l *layout) manifest(digest block.Digest) ([]byte, error) {
	b, err := l.store.open(digest)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(b, maxManifest+1))
	if err := errors.Join(err, b.Close()); err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w", digest, err)
	}
	if len(content) > maxManifest {
		return nil, fmt.Errorf("manifest %s is longer than %d bytes", digest, maxManifest)
	}
	return content, nil
}

// mediaTypeOf returns the media type that a manifest has inside. It may be missing.
func mediaTypeOf(content []byte) (types.MediaType, error) {
	var m struct {
		MediaType types.MediaType `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return "", fmt.Errorf("reading a manifest: %w", err)
	}
	switch {
	case m.MediaType != "":
		return m.MediaType, nil
	case m.Manifests != nil:
		return types.OCIImageIndex, nil
	}
	return types.OCIManifestSchema1, nil
}

func (l *layout) takeManifest(w http.ResponseWriter, r *http.Request, name string) error {
	content, err := io.ReadAll(io.LimitReader(r.Body, maxManifest+1))
	if err != nil {
		return fmt.Errorf("receiving a manifest: %w", err)
	}
	if len(content) > maxManifest {
		return fmt.Errorf("manifest is longer than %d bytes", maxManifest)
	}
	digest, tag := block.Sum(content), name
	if strings.Contains(name, ":") {
		tag = ""
		if name != digest.String() {
			return fmt.Errorf("manifest has digest %s, not %s", digest, name)
		}
	}
	if err := l.put(content, types.MediaType(r.Header.Get("Content-Type")), tag); err != nil {
		return err
	}
	w.Header().Set(digestHeader, digest.String())
	w.WriteHeader(http.StatusCreated)
	return nil
}

// serveReferrers lists the manifests that name another as their subject. They are entries of
// index.json.
func (l *layout) serveReferrers(w http.ResponseWriter, name string) error {
	subject, err := v1.NewHash(name)
	if err != nil {
		return err
	}
	index, err := l.read()
	if err != nil {
		return err
	}
	found := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	seen := map[v1.Hash]bool{}
	for _, d := range index.Manifests {
		if seen[d.Digest] || !d.MediaType.IsImage() {
			continue
		}
		seen[d.Digest] = true
		digest, err := block.ParseDigest(d.Digest.String())
		if err != nil {
			return err
		}
		content, err := l.manifest(digest)
		if errors.Is(err, block.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		var m v1.Manifest
		if err := json.Unmarshal(content, &m); err != nil || m.Subject == nil || m.Subject.Digest != subject {
			continue
		}
		found.Manifests = append(found.Manifests, v1.Descriptor{
			MediaType: d.MediaType, Size: d.Size, Digest: d.Digest, ArtifactType: m.ArtifactType, Annotations: m.Annotations,
		})
	}
	answer(w, http.StatusOK, types.OCIImageIndex, found)
	return nil
}

func (l *layout) serveTags(w http.ResponseWriter, repository string) error {
	index, err := l.read()
	if err != nil {
		return err
	}
	answer(w, http.StatusOK, "application/json", map[string]any{"name": repository, "tags": tagsOf(index)})
	return nil
}
