package hosts_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/registry/hosts"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

// site is a machine on which registries are configured.
type site struct {
	t      *testing.T
	root   string
	log    bytes.Buffer
	client *registry.Client
}

func newSite(t *testing.T, cfg registry.Config) *site {
	t.Helper()
	s := &site{t: t, root: t.TempDir()}
	known := hosts.New(hosts.Config{Path: "/none:" + s.root, Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
	t.Cleanup(known.Close)
	cfg.Endpoints = known.Endpoints
	if cfg.StallTimeout == 0 {
		cfg.StallTimeout = 2 * time.Second
	}
	client, err := registry.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s.client = client
	return s
}

// configure writes the file of a registry.
func (s *site) configure(host, content string) {
	s.t.Helper()
	dir := filepath.Join(s.root, host)
	if i := strings.LastIndex(host, ":"); i > 0 {
		dir = filepath.Join(s.root, host[:i]+"_"+host[i+1:]+"_")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, hosts.FileName), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// table is that of a mirror in a file.
func table(at, settings string) string { return fmt.Sprintf("[host.%q]\n%s\n", at, settings) }

// image pushes the same image to a registry, with an index or without.
func image(t *testing.T, r *registrytest.Registry, indexed bool) {
	t.Helper()
	layer := registrytest.Layer{Level: 1, Tar: registrytest.Tar(t, registrytest.Files(1, 4, 256<<10)...)}
	r.Push(t, "team/app:v1", registrytest.Image{Layers: []registrytest.Layer{layer}})
	if indexed {
		client, err := registry.NewClient(registry.Config{Keychain: keychain{"": registrytest.Password}})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if _, err := convert.Convert(t.Context(), client, r.Ref(t, "team/app:v1"), convert.Config{}); err != nil {
			t.Fatal(err)
		}
	}
	r.ResetRequests()
}

// keychain has a password for each registry, or under "" for all.
type keychain map[string]string

func (k keychain) Resolve(of authn.Resource) (authn.Authenticator, error) {
	password, ok := k[of.RegistryStr()]
	if !ok {
		password, ok = k[""]
	}
	if !ok {
		return authn.Anonymous, nil
	}
	return &authn.Basic{Username: registrytest.User, Password: password}, nil
}

// layout is that of one layer.
type layout struct{ layer *index.Layer }

func (l layout) StreamSize(block.Digest) (int64, bool) { return l.layer.StreamSize(), true }
func (l layout) BlockDigest(k block.Key) (block.Digest, bool) {
	return l.layer.BlockDigest(k.Index)
}

// read looks an image up and reads its layer, as a node does.
func (s *site) read(host string) error {
	s.t.Helper()
	ref, err := name.ParseReference(host + "/team/app:v1")
	if err != nil {
		s.t.Fatal(err)
	}
	found, err := s.client.Resolve(s.t.Context(), ref, v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		return err
	}
	artifact, err := s.client.FindArtifact(s.t.Context(), found)
	if err != nil {
		return err
	}
	layers, err := s.client.LayerIndexes(s.t.Context(), found, artifact)
	if err != nil {
		return err
	}
	src, err := registry.NewSource(s.client, registry.SourceConfig{})
	if err != nil {
		s.t.Fatal(err)
	}
	src.Add(ref.Context(), layers[0])
	verified := source.Retry(source.Verify(src, layout{layers[0]}, source.VerifyConfig{}), source.RetryConfig{})
	count := block.Count(layers[0].StreamSize())
	got := 0
	err = verified.Fetch(s.t.Context(), block.Request{Range: block.Range{Layer: layers[0].StreamID(), Count: count}},
		func(block.Key, []byte) error { got++; return nil })
	if err == nil && got != int(count) {
		s.t.Errorf("%d blocks, not %d", got, count)
	}
	return err
}

// requireRead reads an image, and checks from where.
func (s *site) requireRead(host string, from, not *registrytest.Registry) {
	s.t.Helper()
	if err := s.read(host); err != nil {
		s.t.Fatalf("%v\n%s", err, s.log.String())
	}
	if len(from.BlobRequests()) == 0 {
		s.t.Error("nothing was read from where it should be")
	}
	if not != nil && len(not.Requests()) > 0 {
		s.t.Errorf("asked as well: %v", not.Requests())
	}
}

func TestMirror(t *testing.T) {
	mirror := registrytest.New(t, registrytest.Config{})
	image(t, mirror, true)
	t.Run("in place of a registry that is away", func(t *testing.T) {
		s := newSite(t, registry.Config{})
		s.configure("registry.invalid", table("http://"+mirror.Addr(), ""))
		s.requireRead("registry.invalid", mirror, nil)
	})
	t.Run("before the registry", func(t *testing.T) {
		up := registrytest.New(t, registrytest.Config{})
		s := newSite(t, registry.Config{})
		s.configure(up.Addr(), table("http://"+mirror.Addr(), ""))
		s.requireRead(up.Addr(), mirror, up)
	})
	t.Run("with redirects", func(t *testing.T) {
		redirecting := registrytest.New(t, registrytest.Config{Redirect: true})
		image(t, redirecting, true)
		s := newSite(t, registry.Config{})
		s.configure("registry.invalid", table("http://"+redirecting.Addr(), ""))
		s.requireRead("registry.invalid", redirecting, nil)
		redirecting.ExpireRedirects()
		s.requireRead("registry.invalid", redirecting, nil)
	})
	t.Run("under another name", func(t *testing.T) {
		s := newSite(t, registry.Config{})
		s.configure("_default", fmt.Sprintf("server = %q\n", "http://"+mirror.Addr()))
		s.requireRead("registry.invalid", mirror, nil)
	})
}

// Whatever is wrong with a mirror, the registry is asked then.
func TestMirrorFails(t *testing.T) {
	up := registrytest.New(t, registrytest.Config{})
	image(t, up, true)
	complete := func(mirror *registrytest.Registry) { image(t, mirror, true) }
	all := func(*http.Request) bool { return true }
	blobs := func(req *http.Request) bool { return strings.Contains(req.URL.Path, "/blobs/") }
	with := func(rule registrytest.Rule) func(*registrytest.Registry) {
		return func(mirror *registrytest.Registry) { complete(mirror); mirror.Inject(rule) }
	}
	for what, prepare := range map[string]func(mirror *registrytest.Registry){
		"has nothing":       func(*registrytest.Registry) {},
		"has no index":      func(mirror *registrytest.Registry) { image(t, mirror, false) },
		"wants credentials": with(registrytest.Rule{Match: all, Fault: registrytest.Status(401)}),
		"fails":             with(registrytest.Rule{Match: all, Fault: registrytest.Status(500)}),
		"hangs":             with(registrytest.Rule{Match: all, Fault: registrytest.Hang(-1)}),
		"hangs in blobs":    with(registrytest.Rule{Match: blobs, Fault: registrytest.Hang(100)}),
		"resets":            with(registrytest.Rule{Match: blobs, Fault: registrytest.Reset(1000)}),
		"sends wrong bytes": with(registrytest.Rule{Match: blobs, Fault: registrytest.Flip(50)}),
		"ignores ranges":    with(registrytest.Rule{Match: blobs, Fault: registrytest.IgnoreRange()}),
	} {
		t.Run(what, func(t *testing.T) {
			mirror := registrytest.New(t, registrytest.Config{})
			prepare(mirror)
			defer mirror.ClearFaults()
			s := newSite(t, registry.Config{})
			s.configure(up.Addr(), table("http://"+mirror.Addr(), ""))
			up.ResetRequests()
			mirror.ResetRequests()
			started := time.Now()
			if err := s.read(up.Addr()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(started); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
			if len(mirror.Requests()) == 0 {
				t.Error("the mirror was not asked")
			}
			if len(up.Requests()) == 0 && what != "ignores ranges" {
				t.Error("the registry was not asked")
			}
			if what == "has no index" && len(mirror.BlobRequests()) == 0 {
				t.Error("the blocks do not come from the mirror")
			}
			if what == "hangs" {
				mirror.ResetRequests()
				if err := s.read(up.Addr()); err != nil || len(mirror.Requests()) > 0 {
					t.Errorf("asked again at once: %v, %v", mirror.Requests(), err)
				}
			}
		})
	}
	t.Run("to find an index, and the registry hangs", func(t *testing.T) {
		mirror, hanging := registrytest.New(t, registrytest.Config{}), registrytest.New(t, registrytest.Config{})
		image(t, mirror, false)
		hanging.Inject(registrytest.Rule{Match: all, Fault: registrytest.Hang(-1)})
		defer hanging.ClearFaults()
		s := newSite(t, registry.Config{})
		s.configure(hanging.Addr(), table("http://"+mirror.Addr(), ""))
		ref, err := name.ParseReference(hanging.Addr() + "/team/app:v1")
		if err != nil {
			t.Fatal(err)
		}
		found, err := s.client.Resolve(t.Context(), ref, v1.Platform{OS: "linux", Architecture: "amd64"})
		if err != nil {
			t.Fatal(err)
		}
		for i, each := range []struct {
			patience time.Duration
			want     error
		}{{time.Second, context.DeadlineExceeded}, {10 * time.Second, registry.ErrNoArtifact}, {10 * time.Second, registry.ErrNoArtifact}} {
			ctx, cancel := context.WithTimeout(t.Context(), each.patience)
			_, err := s.client.FindArtifact(ctx, found)
			cancel()
			if !errors.Is(err, each.want) {
				t.Errorf("look-up %d: %v, want %v", i, err, each.want)
			}
		}
	})
	t.Run("and so does the registry", func(t *testing.T) {
		mirror := registrytest.New(t, registrytest.Config{})
		s := newSite(t, registry.Config{})
		s.configure("127.0.0.1:1", table("http://"+mirror.Addr(), ""))
		err := s.read("127.0.0.1:1")
		if !errors.Is(err, block.ErrUnavailable) || errors.Is(err, block.ErrNotFound) || !strings.Contains(err.Error(), mirror.Addr()) {
			t.Error(err)
		}
	})
}

// front is a server in front of a registry, which notes what it is asked.
type front struct {
	*httptest.Server
	mu   sync.Mutex
	seen []*http.Request
}

func newFront(t *testing.T, behind *registrytest.Registry, prefix string, secure bool) *front {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind.Addr()})
	f := &front{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		f.mu.Lock()
		f.seen = append(f.seen, req.Clone(req.Context()))
		f.mu.Unlock()
		if req.URL.Path != "/token" {
			rest, ok := strings.CutPrefix(req.URL.Path, prefix)
			if !ok {
				http.NotFound(w, req)
				return
			}
			req.URL.Path, req.URL.RawPath = "/v2"+rest, ""
		}
		proxy.ServeHTTP(w, req)
	})
	if secure {
		f.Server = httptest.NewTLSServer(handler)
	} else {
		f.Server = httptest.NewServer(handler)
	}
	t.Cleanup(f.Close)
	return f
}

func (f *front) requests() []*http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}
