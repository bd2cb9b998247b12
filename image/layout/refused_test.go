package layout_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// What is no image in a file is refused, and says why.
func TestRefused(t *testing.T) {
	several, plain := t.TempDir(), t.TempDir()
	write(t, several, map[string]registrytest.Image{"v1": image(t), "v2": image(t)})
	if err := os.WriteFile(filepath.Join(plain, "file"), []byte("not a tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	gzipped := filepath.Join(t.TempDir(), "app.tar.gz")
	if err := os.WriteFile(gzipped, []byte{0x1f, 0x8b, 8, 0, 0}, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSession(t)
	for text, why := range map[string]string{
		"oci:":                         "names no file",
		"oci:" + plain:                 "not an OCI image layout",
		"oci:" + several:               "several images, name the tag: v1, v2",
		"oci:" + several + ":v3":       "there is: v1, v2",
		"oci:/no/such/dir":             "no such file",
		"oci-archive:" + gzipped:       "compressed",
		"oci-archive:" + plain:         "reading the archive",
		"docker-archive:/no/such/file": "no such file",
	} {
		if _, err := s.files.Open(text, false); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", text, err, why)
		}
	}
}

// A layout only takes what has the digest it is said to have.
func TestWrongDigestsAreRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	s := newSession(t)
	ref := s.open(t, "oci:"+dir, true)
	do := func(method, url, body string) (status int, location string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.files.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, resp.Header.Get("Location")
	}
	base := "http://" + ref.Context().RegistryStr() + "/v2/" + ref.Context().RepositoryStr()
	wrong := block.Sum([]byte("something else")).String()
	_, location := do(http.MethodPost, base+"/blobs/uploads/", "")
	upload := "http://" + ref.Context().RegistryStr() + location
	if got, _ := do(http.MethodPut, upload+"?digest="+wrong, "content"); got != http.StatusBadRequest {
		t.Errorf("a wrong blob: status %d", got)
	}
	if got, _ := do(http.MethodPut, upload+"?digest="+wrong, "content"); got != http.StatusNotFound {
		t.Errorf("an upload that has ended: status %d", got)
	}
	if got, _ := do(http.MethodPut, base+"/manifests/"+wrong, "{}"); got != http.StatusBadRequest {
		t.Errorf("a wrong manifest: status %d", got)
	}
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil || len(blobs) != 0 {
		t.Errorf("the layout has %v, %v", blobs, err)
	}
}
