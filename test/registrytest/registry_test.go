package registrytest_test

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

func transport(t *testing.T) *http.Transport {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// What was pushed comes back as a valid image, through each way of asking for
// credentials and each way of storing layers.
func TestPushThenPull(t *testing.T) {
	tar := registrytest.Tar(t, registrytest.Files(1, 3, 50_000)...)
	layers := []registrytest.Layer{
		{Tar: tar},
		{Tar: registrytest.Tar(t), Compression: registrytest.None},
		{Tar: tar, Compression: registrytest.Zstd, FrameSize: 20_000},
	}
	for _, tt := range []struct {
		name   string
		cfg    registrytest.Config
		docker bool
	}{
		{name: "distribution"},
		{name: "referrers", cfg: registrytest.Config{Referrers: true}},
		{name: "basic", cfg: registrytest.Config{Auth: registrytest.AuthBasic}, docker: true},
		{name: "token", cfg: registrytest.Config{Auth: registrytest.AuthToken}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := registrytest.New(t, tt.cfg)
			digest := r.Push(t, "a/b:v1", registrytest.Image{Layers: layers, Docker: tt.docker})
			opts := []remote.Option{
				remote.WithTransport(transport(t)),
				remote.WithAuth(&authn.Basic{Username: registrytest.User, Password: registrytest.Password}),
			}
			img, err := remote.Image(digest, opts...)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Image(img, validate.Fast); err != nil {
				t.Fatal(err)
			}
			if tt.cfg.Auth == registrytest.AuthNone {
				return
			}
			if _, err := remote.Head(digest, remote.WithTransport(transport(t))); err == nil {
				t.Error("an anonymous read succeeded")
			}
		})
	}
}

func TestPushIndex(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	tar := registrytest.Tar(t, registrytest.Files(1, 1, 1000)...)
	digest := r.PushIndex(t, "app:v1",
		registrytest.Image{Layers: []registrytest.Layer{{Tar: tar}}, Docker: true},
		registrytest.Image{Layers: []registrytest.Layer{{Tar: tar}}, Docker: true, Platform: v1.Platform{OS: "linux", Architecture: "arm64"}})
	index, err := remote.Index(digest, remote.WithTransport(transport(t)))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 2 || manifest.MediaType != types.DockerManifestList {
		t.Errorf("index %+v", manifest)
	}
}

type answer struct {
	status int
	header http.Header
	url    *url.URL
}

// blob pushes one blob and returns its bytes and a way to GET it.
func blob(t *testing.T, r *registrytest.Registry) ([]byte, func(rangeHeader string) (answer, []byte, error)) {
	t.Helper()
	layer := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(7, 1, 100_000)...)}
	data := registrytest.Compress(t, layer)
	img := registrytest.Build(t, registrytest.Image{Layers: []registrytest.Layer{layer}})
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{layer}})
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: transport(t), Timeout: 10 * time.Second}
	return data, func(rangeHeader string) (answer, []byte, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			"http://"+r.Addr()+"/v2/app/blobs/"+manifest.Layers[0].Digest.String(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if rangeHeader != "" {
			req.Header.Set("Range", rangeHeader)
		}
		resp, err := client.Do(req)
		if err != nil {
			return answer{}, nil, err
		}
		body, err := io.ReadAll(resp.Body)
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		return answer{resp.StatusCode, resp.Header, resp.Request.URL}, body, err
	}
}

func TestFaults(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		r := registrytest.New(t, registrytest.Config{Referrers: referrers})
		data, get := blob(t, r)
		once := func(f registrytest.Fault) (answer, []byte, error) {
			r.Inject(registrytest.Rule{Fault: f, Times: 1})
			return get("bytes=10-109")
		}
		resp, _, err := once(registrytest.Status(http.StatusTooManyRequests, "Retry-After", "3"))
		if err != nil || resp.status != http.StatusTooManyRequests || resp.header.Get("Retry-After") != "3" {
			t.Errorf("status: %v %v", resp, err)
		}
		_, body, err := once(registrytest.Cut(40))
		if err == nil || !bytes.Equal(body, data[10:50]) {
			t.Errorf("cut: %d bytes, %v", len(body), err)
		}
		if _, _, err = once(registrytest.Cut(-1)); err == nil {
			t.Error("cut before the answer: no error")
		}
		if _, body, err = once(registrytest.Flip(3)); err != nil || len(body) != 100 || body[3] != data[13]^0xff || body[4] != data[14] {
			t.Errorf("flip: %v", err)
		}
		if resp, body, err = once(registrytest.IgnoreRange()); err != nil || resp.status != http.StatusOK || !bytes.Equal(body, data) {
			t.Errorf("ignored range: %v %v", resp, err)
		}
		if resp, _, err = once(registrytest.ContentRange("bytes 0-99/100")); err != nil || resp.header.Get("Content-Range") != "bytes 0-99/100" {
			t.Errorf("content range: %v %v", resp, err)
		}
		if _, body, err = once(registrytest.Shorten()); err != nil || !bytes.Equal(body, data[10:109]) {
			t.Errorf("shortened: %d bytes, %v", len(body), err)
		}
		r.ResetRequests()
		if resp, body, err = get("bytes=10-109"); err != nil || resp.status != http.StatusPartialContent || !bytes.Equal(body, data[10:110]) {
			t.Errorf("after the faults: %v %v", resp, err)
		}
		want := []registrytest.Request{{
			Server: "registry", Method: http.MethodGet, Path: resp.url.Path,
			Range: "bytes=10-109", Status: http.StatusPartialContent, Bytes: 100,
		}}
		if diff := cmp.Diff(want, r.BlobRequests()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestRedirect(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Redirect: true})
	data, get := blob(t, r)
	resp, body, err := get("")
	if err != nil || !bytes.Equal(body, data) || resp.url.Host == r.Addr() {
		t.Fatalf("%v %v", resp, err)
	}
	direct := func() int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, resp.url.String(), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		again, err := transport(t).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Body.Close(); err != nil {
			t.Error(err)
		}
		return again.StatusCode
	}
	if got := direct(); got != http.StatusOK {
		t.Errorf("signed URL: %d", got)
	}
	r.ExpireRedirects()
	if got := direct(); got != http.StatusForbidden {
		t.Errorf("expired URL: %d", got)
	}
}

func TestTokensExpire(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken})
	ref, err := name.ParseReference(r.Addr() + "/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: registrytest.Tar(t)}}})
	puller, err := remote.NewPuller(remote.WithTransport(transport(t)),
		remote.WithAuth(&authn.Basic{Username: registrytest.User, Password: registrytest.Password}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := puller.Get(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	before := r.TokensIssued()
	r.RevokeTokens()
	if _, err := puller.Get(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if got := r.TokensIssued(); got != before+1 {
		t.Errorf("%d tokens given after the first %d were revoked, want one", got, before)
	}
}
