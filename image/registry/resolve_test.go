package registry_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func linux() v1.Platform { return v1.Platform{OS: "linux", Architecture: "amd64"} }

func smallLayer(t *testing.T, seed uint64) registrytest.Layer {
	t.Helper()
	return registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(seed, 2, 3000)...)}
}

func TestResolve(t *testing.T) {
	for _, docker := range []bool{false, true} {
		for _, referrers := range []bool{false, true} {
			r := registrytest.New(t, registrytest.Config{Referrers: referrers})
			c := newClient(t, registry.Config{})
			layers := []registrytest.Layer{smallLayer(t, 1), smallLayer(t, 2)}
			digest := r.Push(t, "app:v1", registrytest.Image{Layers: layers, Docker: docker})
			for _, ref := range []name.Reference{r.Ref(t, "app:v1"), digest} {
				// The platform is not asked for: there is only one image.
				image, err := c.Resolve(t.Context(), ref, v1.Platform{OS: "plan9", Architecture: "mips"})
				if err != nil {
					t.Fatal(err)
				}
				if image.Digest.String() != digest.DigestStr() {
					t.Errorf("digest %s, want %s", image.Digest, digest.DigestStr())
				}
				if got := image.Platform(); !got.Equals(linux()) {
					t.Errorf("platform %s", got)
				}
				for i, l := range layers {
					blob := registrytest.Compress(t, l)
					want := registry.Layer{
						Digest: block.Sum(blob), DiffID: block.Sum(l.Tar), Size: int64(len(blob)), MediaType: types.OCILayer,
					}
					if docker {
						want.MediaType = types.DockerLayer
					}
					if diff := cmp.Diff(want, image.Layers[i]); diff != "" {
						t.Error(diff)
					}
				}
			}
		}
	}
}

func TestResolvePlatforms(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t, registry.Config{})
	arm := func(variant string) v1.Platform {
		return v1.Platform{OS: "linux", Architecture: "arm64", Variant: variant}
	}
	image := func(seed uint64, p v1.Platform) registrytest.Image {
		return registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, seed)}, Platform: p}
	}
	index := r.PushIndex(t, "app:v1", image(1, linux()), image(2, arm("v8")), image(3, arm("v9")),
		image(4, v1.Platform{OS: "unknown", Architecture: "unknown"}))
	for _, tt := range []struct {
		ask, get v1.Platform
	}{
		{linux(), linux()},
		{arm(""), arm("v8")},
		{arm("v9"), arm("v9")},
	} {
		got, err := c.Resolve(t.Context(), index, tt.ask)
		if err != nil {
			t.Fatal(err)
		}
		if p := got.Platform(); !p.Equals(tt.get) {
			t.Errorf("asked for %s, got %s", tt.ask, p)
		}
	}
	_, err := c.Resolve(t.Context(), index, v1.Platform{OS: "windows", Architecture: "amd64"})
	if !errors.Is(err, block.ErrNotFound) || !strings.Contains(err.Error(), "linux/arm64/v9") {
		t.Errorf("missing platform: %v", err)
	}
	all, err := c.ResolveAll(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Images) != 3 || len(all.Skipped) != 0 {
		t.Errorf("%d runnable images, skipped %v", len(all.Images), all.Skipped)
	}
}

func TestResolveErrors(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t, registry.Config{})
	if _, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux()); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("missing image: %v", err)
	}
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}})
	for _, tt := range []struct {
		name  string
		rule  registrytest.Rule
		is    error
		text  string
		times int
	}{
		{name: "500", rule: registrytest.Rule{Fault: registrytest.Status(500)}, is: block.ErrUnavailable, text: "500"},
		{name: "403", rule: registrytest.Rule{Fault: registrytest.Status(403)}, is: registry.ErrDenied, text: "403"},
		{name: "garbage", rule: registrytest.Rule{Fault: registrytest.Flip(0)}, is: registry.ErrInvalid, text: "JSON"},
		{name: "gone", rule: registrytest.Rule{Fault: registrytest.Cut(-1)}, is: block.ErrUnavailable, text: "EOF"},
		{name: "too long", rule: registrytest.Rule{Fault: registrytest.Endless()}, is: registry.ErrInvalid, text: "longer than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.rule.Match = registrytest.Manifests
			r.Inject(tt.rule)
			defer r.ClearFaults()
			_, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux())
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want %q and %q in it", err, tt.is, tt.text)
			}
		})
	}
	// What fails once is asked for again.
	r.Inject(registrytest.Rule{Fault: registrytest.Status(503), Match: registrytest.Manifests, Times: 1})
	if _, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux()); err != nil {
		t.Errorf("503 once: %v", err)
	}
	// A configuration that is not what its digest says is refused.
	r.Inject(registrytest.Rule{Fault: registrytest.Flip(20)})
	if _, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux()); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("changed configuration: %v", err)
	}
}

func TestParseReference(t *testing.T) {
	c := newClient(t, registry.Config{PlainHTTP: func(host string) bool { return host == "plain.example:5000" }})
	for ref, want := range map[string]string{
		"plain.example:5000/app": "http",
		"other.example:5000/app": "https",
		"127.0.0.1:5000/app":     "http",
		"[::1]:5000/app":         "http",
		"localhost:5000/app@sha256:" + strings.Repeat("0", 64): "http",
	} {
		parsed, err := c.ParseReference(ref)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		if got := parsed.Context().Scheme(); got != want {
			t.Errorf("%s: scheme %s, want %s", ref, got, want)
		}
	}
	if _, err := c.ParseReference("UPPER/case"); err == nil {
		t.Error("accepted a bad reference")
	}
}

// Plain HTTP is spoken on request only, whatever the name of the registry is.
func TestPlainHTTP(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}})
	transport := rerouted(t, r.Addr())
	for host, allowed := range map[string]bool{"registry.example:5000": true, "10.1.2.3:5000": true, "other.example:5000": false, "10.9.9.9:5000": false} {
		c := newClient(t, registry.Config{Transport: transport, PlainHTTP: func(h string) bool { return h == host && allowed }})
		ref, err := c.ParseReference(host + "/app:v1")
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Resolve(t.Context(), ref, linux())
		if allowed && err != nil {
			t.Errorf("%s: %v", host, err)
		}
		if !allowed && !errors.Is(err, registry.ErrPlainHTTP) {
			t.Errorf("%s: %v, want %v", host, err, registry.ErrPlainHTTP)
		}
	}
}

// dockerConfig makes a Docker configuration the one that is used.
func dockerConfig(t *testing.T, config map[string]any) {
	t.Helper()
	content, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
}

func TestCredentials(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthBasic, registrytest.AuthToken} {
		r := registrytest.New(t, registrytest.Config{Auth: auth})
		r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}})
		resolve := func() error {
			c := newClient(t, registry.Config{Keychain: authn.DefaultKeychain})
			_, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux())
			return err
		}
		dockerConfig(t, map[string]any{"auths": map[string]any{}})
		if err := resolve(); !errors.Is(err, registry.ErrDenied) {
			t.Errorf("auth %d: without credentials: %v", auth, err)
		}
		encoded := base64.StdEncoding.EncodeToString([]byte(registrytest.User + ":" + registrytest.Password))
		dockerConfig(t, map[string]any{"auths": map[string]any{r.Addr(): map[string]any{"auth": encoded}}})
		if err := resolve(); err != nil {
			t.Errorf("auth %d: with the Docker configuration: %v", auth, err)
		}
		useHelper(t, r.Addr(), registrytest.Password)
		if err := resolve(); err != nil {
			t.Errorf("auth %d: with a credential helper: %v", auth, err)
		}
		useHelper(t, r.Addr(), "wrong")
		if err := resolve(); !errors.Is(err, registry.ErrDenied) {
			t.Errorf("auth %d: with a wrong password: %v", auth, err)
		}
	}
}

// useHelper puts a credential helper on the PATH, which answers for one registry.
func useHelper(t *testing.T, addr, password string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "docker-credential-brisktest")
	script := fmt.Sprintf("#!/bin/sh\ncat >/dev/null\necho '{\"ServerURL\":\"%s\",\"Username\":\"%s\",\"Secret\":\"%s\"}'\n",
		addr, registrytest.User, password)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	dockerConfig(t, map[string]any{"credHelpers": map[string]string{addr: "brisktest"}})
	return path
}

// Credentials that change are looked up anew when the old ones are refused.
func TestCredentialsAreRenewed(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthBasic})
	st := store(t, r, smallLayer(t, 1))
	keys := &changing{password: "old"}
	src := newSource(t, newClient(t, registry.Config{Keychain: keys}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); !errors.Is(err, registry.ErrDenied) {
		t.Errorf("with old credentials: %v", err)
	}
	keys.password = registrytest.Password
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); err != nil {
		t.Errorf("with new credentials: %v", err)
	}
}

type changing struct{ password string }

func (c *changing) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: registrytest.User, Password: c.password}, nil
}

// Bearer tokens are got once for all requests, kept, and renewed once when they
// are refused.
func TestTokens(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 10)})
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	before := r.TokensIssued()
	total := block.Count(st.layer.StreamSize())
	for range 3 {
		if _, err := fetch(t.Context(), t, src, st, st.request(0, total, block.ClassFill)); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.TokensIssued() - before; n != 1 {
		t.Errorf("%d tokens for reading three times", n)
	}
	r.RevokeTokens()
	if _, err := fetch(t.Context(), t, src, st, st.request(0, total, block.ClassFill)); err != nil {
		t.Fatal(err)
	}
	if n := r.TokensIssued() - before; n != 2 {
		t.Errorf("%d tokens after the first was revoked, want 2", n)
	}
}

// Where a redirect led is asked directly, without credentials, until it refuses.
func TestRedirects(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Redirect: true, Auth: registrytest.AuthToken})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 4)})
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	read := func(i uint32) []string {
		t.Helper()
		r.ResetRequests()
		if _, err := fetch(t.Context(), t, src, st, st.request(i, 1, block.ClassRead)); err != nil {
			t.Fatal(err)
		}
		var servers []string
		for _, request := range r.BlobRequests() {
			servers = append(servers, fmt.Sprintf("%s %d", request.Server, request.Status))
			if authorized := request.Authorization != ""; authorized != (request.Server == "registry") {
				t.Errorf("%s got credentials: %t", request.Server, authorized)
			}
		}
		return servers
	}
	steps := []struct {
		expire bool
		want   []string
	}{
		{false, []string{"registry 307", "storage 206"}},
		{false, []string{"storage 206"}},
		{true, []string{"storage 403", "registry 307", "storage 206"}},
		{false, []string{"storage 206"}},
	}
	for i, step := range steps {
		if step.expire {
			r.ExpireRedirects()
		}
		if diff := cmp.Diff(step.want, read(uint32(4*i))); diff != "" {
			t.Errorf("read %d: %s", i, diff)
		}
	}
}

// A login that hangs does not hold up a reader that gives up.
func TestHangingLogin(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, smallLayer(t, 1))
	r.Inject(registrytest.Rule{Fault: registrytest.Hang(-1), Match: registrytest.Ping})
	c := newClient(t, registry.Config{LoginTimeout: 1e9})
	src := newSource(t, c, registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fetch(ctx, t, src, st, st.request(0, 1, block.ClassRead)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hanging: %v", err)
	}
	r.ClearFaults()
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
