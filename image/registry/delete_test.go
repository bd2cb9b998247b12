package registry_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// Deleting asks for the right to delete, what is gone is no error, and a registry that does not delete is told from one that
// forbids it.
func TestDeleteManifest(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken})
	c := newClient(t, registry.Config{})
	digest := r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}})
	asked := make(chan string, 16)
	r.Inject(registrytest.Rule{
		Fault: func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			asked <- strings.Join(req.URL.Query()["scope"], " ")
			next.ServeHTTP(w, req)
		},
		Match: registrytest.Token,
	})
	if err := c.DeleteManifest(t.Context(), digest); err != nil {
		t.Fatal(err)
	}
	if scope := <-asked; scope != "repository:app:push,pull,delete" {
		t.Errorf("scope %q", scope)
	}
	if _, err := c.ReadManifest(t.Context(), digest); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("it is there still: %v", err)
	}
	for _, gone := range []string{"app:v1", "app@" + digest.DigestStr()} {
		if err := c.DeleteManifest(t.Context(), r.Ref(t, gone)); err != nil {
			t.Errorf("%s is gone already: %v", gone, err)
		}
	}
	for status, want := range map[int]error{
		http.StatusMethodNotAllowed: registry.ErrNoDelete, http.StatusNotImplemented: registry.ErrNoDelete,
		http.StatusForbidden: registry.ErrDenied, http.StatusBadGateway: block.ErrUnavailable,
	} {
		r.Inject(registrytest.Rule{Fault: registrytest.Status(status), Match: func(r *http.Request) bool { return r.Method == http.MethodDelete }})
		err := c.DeleteManifest(t.Context(), digest)
		if !errors.Is(err, want) || (want != registry.ErrNoDelete && errors.Is(err, registry.ErrNoDelete)) { //nolint:errorlint // which one is wanted
			t.Errorf("status %d: %v", status, err)
		}
		r.ClearFaults()
	}
}
