package registry_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/registry/credential"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// Tokens that live for a second are renewed in time, once for all readers.
func TestTokensEverySecond(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken, TokenLife: time.Second})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 10)})
	dir := t.TempDir()
	secretFile(t, dir, r, registrytest.Password)
	d := newReader(t, r, st, credential.Config{Sources: []credential.Source{credential.NewDirectory(dir, nil)}})
	before := r.TokensIssued()
	const lasts = 3 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			for n := uint32(i); ctx.Err() == nil; n += 3 {
				if _, err := fetch(t.Context(), t, d.src, st, st.request(n%block.Count(st.layer.StreamSize()), 1, block.ClassRead)); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	group.Wait()
	given := r.TokensIssued() - before
	if given < 3 || given > 14 {
		t.Errorf("%d tokens in %s", given, lasts)
	}
	for _, req := range r.BlobRequests() {
		if req.Status == http.StatusUnauthorized {
			t.Error("a token was used past its end")
		}
	}
}

// A credential that may do everything but one thing stays in use.
func TestForbiddenThing(t *testing.T) {
	for label, auth := range both() {
		t.Run(label, func(t *testing.T) {
			r, st := private(t, auth)
			dir := t.TempDir()
			secretFile(t, dir, r, registrytest.Password)
			d := newReader(t, r, st, credential.Config{Sources: []credential.Source{credential.NewDirectory(dir, nil)}})
			d.expect("before", 0, 0)
			r.Inject(registrytest.Rule{Fault: registrytest.Status(403)})
			for range 3 {
				if refusals, err := d.read(4); !errors.Is(err, registry.ErrDenied) || refusals > 3 {
					t.Errorf("forbidden: %d refusals, %v", refusals, err)
				}
			}
			r.ClearFaults()
			d.expect("afterwards", 4, 0)
			d.in("afterwards", "directory")
		})
	}
}

// A read is not refused because another request, to which one thing is forbidden, is
// trying what else there is.
func TestForbiddenAside(t *testing.T) {
	r, st := private(t, registrytest.AuthBasic)
	dir := t.TempDir()
	secretFile(t, dir, r, registrytest.Password)
	creds, err := credential.Open(credential.Config{Sources: []credential.Source{credential.NewDirectory(dir, nil)}})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, registry.Config{Credentials: creds})
	src := newSource(t, c, registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); err != nil {
		t.Fatal(err)
	}
	trying, release := make(chan struct{}), make(chan struct{})
	r.Inject(registrytest.Rule{Match: registrytest.Manifests, Fault: func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		if req.Header.Get("Authorization") == "" {
			close(trying)
			<-release
		}
		http.Error(w, "forbidden", http.StatusForbidden)
	}})
	resolved := make(chan error, 1)
	go func() {
		_, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux())
		resolved <- err
	}()
	<-trying
	for i := range uint32(3) {
		if _, err := fetch(t.Context(), t, src, st, st.request(4*i, 1, block.ClassRead)); err != nil {
			t.Errorf("reading meanwhile: %v", err)
		}
	}
	close(release)
	if err := <-resolved; !errors.Is(err, registry.ErrDenied) {
		t.Errorf("resolving: %v", err)
	}
}

// Repositories of one registry have credentials of their own.
func TestPerRepository(t *testing.T) {
	r, st := private(t, registrytest.AuthBasic)
	creds, err := credential.Open(credential.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := creds.Capture(st.repo, authn.AuthConfig{Username: registrytest.User, Password: registrytest.Password}); err != nil {
		t.Fatal(err)
	}
	other, err := name.NewRepository(r.Addr() + "/other")
	if err != nil {
		t.Fatal(err)
	}
	c, err := creds.Current(t.Context(), other)
	if err != nil || c.Name != "none" {
		t.Errorf("another repository gets %s, %v", c.Name, err)
	}
}

// A token that is refused before it was ever accepted says nothing of a credential that
// was accepted a moment ago.
func TestFreshTokenRefused(t *testing.T) {
	r, st := private(t, registrytest.AuthToken)
	dir := t.TempDir()
	secretFile(t, dir, r, registrytest.Password)
	d := newReader(t, r, st, credential.Config{Sources: []credential.Source{credential.NewDirectory(dir, nil)}})
	d.expect("before", 0, 0)
	r.Inject(registrytest.Rule{Match: rangeGet, Times: 2, Fault: registrytest.Status(http.StatusUnauthorized)})
	d.expect("with the old token and a new one refused", 4, 2)
	d.in("afterwards", "directory")
}
