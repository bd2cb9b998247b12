package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/registry/credential"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/test/registrytest"
)

// reader reads blocks of one layer with the credentials of a store.
type reader struct {
	t     *testing.T
	r     *registrytest.Registry
	st    stored
	store *credential.Store
	src   *registry.Source
}

func newReader(t *testing.T, r *registrytest.Registry, st stored, cfg credential.Config) *reader {
	t.Helper()
	creds, err := credential.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	src := newSource(t, newClient(t, registry.Config{Credentials: creds}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	return &reader{t, r, st, creds, src}
}

// read reads a block and returns how often the registry said no to it.
func (d *reader) read(i uint32) (refusals int, err error) {
	d.t.Helper()
	d.r.ResetRequests()
	_, err = fetch(d.t.Context(), d.t, d.src, d.st, d.st.request(i, 1, block.ClassRead))
	for _, req := range d.r.Requests() {
		if req.Path != "/v2/" && (req.Status == http.StatusUnauthorized || req.Status == http.StatusForbidden) {
			refusals++
		}
	}
	return refusals, err
}

// expect reads a block.
func (d *reader) expect(what string, i uint32, refusals int) {
	d.t.Helper()
	switch got, err := d.read(i); {
	case err != nil:
		d.t.Errorf("%s: %v", what, err)
	case got != refusals:
		d.t.Errorf("%s: %d refusals, want %d", what, got, refusals)
	}
}

// in says where the credential in use comes from.
func (d *reader) in(what, from string) {
	d.t.Helper()
	status := d.store.Status()
	if len(status) != 1 || status[0].Source != from {
		d.t.Errorf("%s: in use is %+v, want that of %s", what, status, from)
	}
}

// secretFile writes a Docker configuration for a registry as Kubernetes mounts it.
func secretFile(t *testing.T, dir string, r *registrytest.Registry, password string) {
	t.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(registrytest.User + ":" + password))
	version := "..data_" + password
	if err := os.MkdirAll(filepath.Join(dir, version), 0o700); err != nil {
		t.Fatal(err)
	}
	content := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.Addr(), auth)
	if err := os.WriteFile(filepath.Join(dir, version, ".dockerconfigjson"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..data/.dockerconfigjson", filepath.Join(dir, ".dockerconfigjson")); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
}

// plugin makes a plugin of kubelet that answers with the password in a file.
type plugin struct {
	t   *testing.T
	dir string
}

func newPlugin(t *testing.T, r *registrytest.Registry, before string) (*plugin, []credential.Source) {
	t.Helper()
	p := &plugin{t, t.TempDir()}
	script := fmt.Sprintf(`#!/bin/sh
cat >/dev/null; cd %q; echo run >>runs; %s
echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"12h",'
echo '"auth":{"%s":{"username":"%s","password":"'$(cat password)'"}}}'
`, p.dir, before, r.Addr(), registrytest.User)
	if err := os.WriteFile(filepath.Join(p.dir, "cloud"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	config := `{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[{"name":"cloud","matchImages":["` + r.Addr() +
		`"],"defaultCacheDuration":"1h","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}]}`
	if err := os.WriteFile(filepath.Join(p.dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	sources, err := credential.NewPlugins(credential.PluginConfig{ConfigPath: filepath.Join(p.dir, "config.json"), BinDir: p.dir})
	if err != nil {
		t.Fatal(err)
	}
	return p, sources
}

func (p *plugin) give(password string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, "password"), []byte(password), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plugin) runs() int {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.dir, "runs"))
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}

// private makes a registry that asks for credentials, with one layer.
func private(t *testing.T, auth registrytest.Auth) (*registrytest.Registry, stored) {
	t.Helper()
	r := registrytest.New(t, registrytest.Config{Auth: auth})
	return r, store(t, r, registrytest.Layer{Tar: megabytes(t, 4)})
}

func both() map[string]registrytest.Auth {
	return map[string]registrytest.Auth{"basic": registrytest.AuthBasic, "token": registrytest.AuthToken}
}

// What one source has is refused, the next one's works and is remembered.
func TestNextSource(t *testing.T) {
	for label, auth := range both() {
		t.Run(label, func(t *testing.T) {
			r, st := private(t, auth)
			dir := t.TempDir()
			secretFile(t, dir, r, "wrong")
			cloud, sources := newPlugin(t, r, "")
			cloud.give(registrytest.Password)
			cfg := credential.Config{
				Sources: append([]credential.Source{credential.NewDirectory(dir, nil)}, sources...),
				Path:    filepath.Join(t.TempDir(), "credentials"),
			}
			d := newReader(t, r, st, cfg)
			d.expect("the first is wrong", 0, 1)
			d.in("the first is wrong", "plugin cloud")
			d.expect("remembered", 4, 0)
			if err := d.store.Save(); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(cloud.dir, "cloud")); err != nil {
				t.Fatal(err)
			}
			d = newReader(t, r, st, cfg)
			d.expect("after a restart, without the plugin", 8, 0)
			if cloud.runs() != 1 {
				t.Errorf("the plugin was run %d times", cloud.runs())
			}
		})
	}
}

// A Secret that is rotated is used at once, and what is tried until then is bounded
// and explained.
func TestRotatedSecret(t *testing.T) {
	for label, auth := range both() {
		t.Run(label, func(t *testing.T) {
			r, st := private(t, auth)
			dir := t.TempDir()
			secretFile(t, dir, r, registrytest.Password)
			d := newReader(t, r, st, credential.Config{Sources: []credential.Source{credential.NewDirectory(dir, nil)}})
			d.expect("before", 0, 0)
			r.SetPassword("rotated")
			r.RevokeTokens()
			for i := range 3 {
				refusals, err := d.read(4)
				if !errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), "refused were those of: directory, none") {
					t.Errorf("between: %v", err)
				}
				if strings.Contains(err.Error(), registrytest.Password) {
					t.Errorf("the error tells: %v", err)
				}
				if refusals > 3-i {
					t.Errorf("between: %d requests refused in read %d", refusals, i)
				}
			}
			secretFile(t, dir, r, "rotated")
			refusals, err := d.read(4)
			if err != nil || refusals > 1 {
				t.Errorf("after: %d refusals, %v", refusals, err)
			}
			d.expect("later", 8, 0)
		})
	}
}

// A plugin that gives what has expired is run again when that is refused, even
// though it said that it lasts.
func TestExpiredByPlugin(t *testing.T) {
	for label, auth := range both() {
		t.Run(label, func(t *testing.T) {
			r, st := private(t, auth)
			cloud, sources := newPlugin(t, r, "")
			cloud.give(registrytest.Password)
			d := newReader(t, r, st, credential.Config{Sources: sources, NegativeFor: time.Millisecond, RefusedFor: time.Minute})
			d.expect("before", 0, 0)
			r.SetPassword("next")
			r.RevokeTokens()
			cloud.give("next")
			refusals, err := d.read(4)
			if err != nil || refusals > 2 || cloud.runs() != 2 {
				t.Errorf("%d refusals, run %d times, %v", refusals, cloud.runs(), err)
			}
		})
	}
}

// Plugins that fail or hang hold nothing up but for a moment.
func TestBrokenPlugins(t *testing.T) {
	for what, before := range map[string]string{"fails": "exit 1", "hangs": "sleep 60", "talks nonsense": "echo '{'; exit 0"} {
		t.Run(what, func(t *testing.T) {
			r, st := private(t, registrytest.AuthBasic)
			dir := t.TempDir()
			secretFile(t, dir, r, registrytest.Password)
			_, sources := newPlugin(t, r, before)
			d := newReader(t, r, st, credential.Config{
				Sources:   append(sources, credential.NewDirectory(dir, nil)),
				SlowAfter: 300 * time.Millisecond, LookupTimeout: time.Second,
			})
			started := time.Now()
			d.expect("the next source", 0, 0)
			if took := time.Since(started); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			d.in("the next source", "directory")
			if what == "hangs" {
				<-time.After(1500 * time.Millisecond) // for the lookup to end
			}
		})
	}
}

// What kubelet was seen to use works without any other source, and another after it
// is refused.
func TestCaptured(t *testing.T) {
	for label, auth := range both() {
		t.Run(label, func(t *testing.T) {
			r, st := private(t, auth)
			d := newReader(t, r, st, credential.Config{})
			if _, err := d.read(0); !errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), "none") {
				t.Errorf("without any: %v", err)
			}
			for _, password := range []string{registrytest.Password, "newer, but of a pod that may not"} {
				if err := d.store.Capture(st.repo, authn.AuthConfig{Username: registrytest.User, Password: password}); err != nil {
					t.Fatal(err)
				}
			}
			if refusals, err := d.read(0); err != nil || refusals > 2 {
				t.Errorf("%d refusals, %v", refusals, err)
			}
			d.in("captured", "captured")
			d.expect("again", 4, 0)
		})
	}
}

// memory is a store of blocks that keeps everything.
type memory struct {
	mu     sync.Mutex
	blocks map[block.Key][]byte
}

func (m *memory) Fetch(_ context.Context, req block.Request, sink block.Sink) error {
	missing := false
	for i := range req.Count {
		k := block.Key{Layer: req.Layer, Index: req.First + i}
		m.mu.Lock()
		data, ok := m.blocks[k]
		m.mu.Unlock()
		if !ok {
			missing = true
			continue
		}
		if err := sink(k, data); err != nil {
			return err
		}
	}
	if missing {
		return block.ErrNotFound
	}
	return nil
}

func (m *memory) Put(_ context.Context, k block.Key, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.blocks[k] = bytes.Clone(data)
	return nil
}

// Blocks that are there are read with the registry down, the token expired and every
// source of credentials broken, and nobody is asked.
func TestNothingNeededForWhatIsThere(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken, TokenLife: time.Second})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 4)})
	cloud, sources := newPlugin(t, r, "")
	cloud.give(registrytest.Password)
	cfg := credential.Config{Sources: sources, Path: filepath.Join(t.TempDir(), "credentials")}
	d := newReader(t, r, st, cfg)
	kept := &memory{blocks: map[block.Key][]byte{}}
	all := st.request(0, block.Count(st.layer.StreamSize()), block.ClassRead)
	if _, err := fetch(t.Context(), t, source.ReadThrough(kept, d.src, source.ReadThroughConfig{}), st, all); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.store.Save(), r.Pause()); err != nil {
		t.Fatal(err)
	}
	cloud.give("expired")
	<-time.After(1100 * time.Millisecond)
	r.ResetRequests()
	for what, d := range map[string]*reader{"running": d, "restarted": newReader(t, r, st, cfg)} {
		src := source.ReadThrough(kept, d.src, source.ReadThroughConfig{})
		if got, err := fetch(t.Context(), t, src, st, all); err != nil || len(got) != int(all.Count) {
			t.Errorf("%s: %d of %d blocks, %v", what, len(got), all.Count, err)
		}
	}
	if n := cloud.runs(); n != 1 || len(r.Requests()) != 0 {
		t.Errorf("the plugin was run %d times, the registry asked %d times", n, len(r.Requests()))
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
}
