package layout

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"

	"github.com/brisk-project/brisk/internal/block"
)

// finisher ends the use of a store.
type finisher interface {
	finish(ctx context.Context) error
	discard() error
}

// upload is a blob that is not complete.
type upload struct {
	file *os.File
	hash hash.Hash
	size int64
}

func newUpload(dir string) (*upload, error) {
	f, err := os.CreateTemp(dir, ".upload-")
	if err != nil {
		return nil, fmt.Errorf("making a file for a blob: %w", err)
	}
	return &upload{file: f, hash: sha256.New()}, nil
}

// Write implements [io.Writer].
func (u *upload) Write(p []byte) (int, error) {
	n, err := io.MultiWriter(u.file, u.hash).Write(p)
	u.size += int64(n)
	return n, err
}

func (u *upload) discard() error { return errors.Join(u.file.Close(), u.remove()) }

//nolint:gosec // a name that os.CreateTemp has chosen
func (u *upload) remove() error { return os.Remove(u.file.Name()) }

// moveTo makes the upload the file at a path if it has the digest.
func (u *upload) moveTo(path string, digest block.Digest) error {
	if got := block.Digest(u.hash.Sum(nil)); got != digest {
		return errors.Join(fmt.Errorf("blob has digest %s, not %s", got, digest), u.discard())
	}
	if err := errors.Join(u.file.Chmod(blobMode), u.file.Sync(), u.file.Close()); err != nil {
		return errors.Join(fmt.Errorf("storing a blob: %w", err), u.remove())
	}
	if err := os.Rename(u.file.Name(), path); err != nil { //nolint:gosec // names that os.CreateTemp and a digest have made
		return errors.Join(fmt.Errorf("storing a blob: %w", err), u.remove())
	}
	return nil
}

// uploads are the uploads under way, by their number.
type uploads struct {
	mu   sync.Mutex
	next int
	by   map[string]*upload
}

func (u *uploads) add(up *upload) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.by == nil {
		u.by = make(map[string]*upload)
	}
	u.next++
	id := strconv.Itoa(u.next)
	u.by[id] = up
	return id
}

// take returns an upload, which nobody else has from then on.
func (u *uploads) take(id string) (*upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := u.by[id]
	if up == nil {
		return nil, fmt.Errorf("upload %.100q: %w", id, block.ErrNotFound)
	}
	delete(u.by, id)
	return up, nil
}

// discard ends all uploads.
func (u *uploads) discard() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var errs []error
	for _, up := range u.by {
		errs = append(errs, up.discard())
	}
	u.by = nil
	return errors.Join(errs...)
}

// upload answers a request that is part of an upload: it begins with POST, goes on with PATCH
// and ends with PUT.
func (l *layout) upload(w http.ResponseWriter, r *http.Request, repository, id string) error {
	if r.Method == http.MethodPost {
		up, err := l.store.create()
		if err == nil {
			l.goOn(w, repository, up)
		}
		return err
	}
	up, err := l.uploads.take(id)
	if err != nil {
		return err
	}
	if _, err := io.Copy(up, r.Body); err != nil {
		return errors.Join(fmt.Errorf("receiving a blob: %w", err), up.discard())
	}
	switch r.Method {
	case http.MethodPatch:
		l.goOn(w, repository, up)
		return nil
	case http.MethodPut:
		digest, err := block.ParseDigest(r.URL.Query().Get("digest"))
		if err != nil {
			return errors.Join(err, up.discard())
		}
		if err := l.store.commit(up, digest); err != nil {
			return err
		}
		w.Header().Set(digestHeader, digest.String())
		w.Header().Set("Location", "/v2/"+repository+"/blobs/"+digest.String())
		w.WriteHeader(http.StatusCreated)
		return nil
	default:
		return errors.Join(fmt.Errorf("%s of an upload", r.Method), up.discard())
	}
}

// goOn says where the upload continues.
func (l *layout) goOn(w http.ResponseWriter, repository string, up *upload) {
	w.Header().Set("Location", "/v2/"+repository+"/blobs/uploads/"+l.uploads.add(up))
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(up.size-1, 0)))
	w.WriteHeader(http.StatusAccepted)
}
