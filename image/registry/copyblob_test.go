package registry_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// A blob gets into another repository by a mount, or by being read and sent where a registry does
// not mount it, and not at all if it is there.
func TestCopyBlob(t *testing.T) {
	mounts := func(req *http.Request) bool { return strings.Contains(req.URL.RawQuery, "mount=") }
	for name, tt := range map[string]struct {
		size       int
		refused    registrytest.Fault
		other      bool // registry
		there      bool
		read, sent bool
	}{
		"mounted":           {size: 20 << 20},
		"there":             {size: 1000, there: true},
		"refused":           {size: 20 << 20, refused: registrytest.Status(403), read: true, sent: true},
		"refused and small": {size: 1000, refused: registrytest.Status(400), read: true, sent: true},
		"not mounted": {size: 20 << 20, read: true, sent: true, refused: func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			req = req.Clone(req.Context())
			req.URL.RawQuery = ""
			next.ServeHTTP(w, req)
		}},
		"other registry": {size: 1000, other: true, read: true, sent: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, registrytest.Config{})
			to := r
			if tt.other {
				to = registrytest.New(t, registrytest.Config{})
			}
			c := newClient(t, registry.Config{})
			content := blocktest.Random(byte(tt.size), tt.size)
			digest := block.Sum(content)
			from, target := r.Repository(t, "base"), to.Repository(t, "app")
			if err := c.PushBlob(t.Context(), from, content, registry.TraceMediaType); err != nil {
				t.Fatal(err)
			}
			if tt.there {
				if err := c.PushBlob(t.Context(), target, content, registry.TraceMediaType); err != nil {
					t.Fatal(err)
				}
			}
			if tt.refused != nil {
				r.Inject(registrytest.Rule{Fault: tt.refused, Match: mounts})
			}
			r.ResetRequests()
			to.ResetRequests()
			if err := c.CopyBlob(t.Context(), from, target, registry.Layer{Digest: digest, Size: int64(tt.size)}.Descriptor()); err != nil {
				t.Fatal(err)
			}
			if read := len(r.BlobRequests()) > 0; read != tt.read {
				t.Errorf("the blob was read: %t", read)
			}
			sent := false
			for _, req := range to.Requests() {
				sent = sent || req.Method == http.MethodPut
			}
			if sent != tt.sent {
				t.Errorf("the blob was sent: %t", sent)
			}
			if got, err := c.ReadBlob(t.Context(), target, digest, int64(tt.size), 1<<30); err != nil || !bytes.Equal(got, content) {
				t.Errorf("the copy: %v", err)
			}
		})
	}
	r := registrytest.New(t, registrytest.Config{})
	if err := newClient(t, registry.Config{}).CopyBlob(t.Context(), r.Repository(t, "base"), r.Repository(t, "app"), registry.Layer{Digest: block.Sum(nil), Size: 5}.Descriptor()); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("a blob that is not there: %v", err)
	}
}
