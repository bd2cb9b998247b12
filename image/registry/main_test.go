package registry_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

// keychain has the credentials of registrytest for every registry.
type keychain struct{}

func (keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: registrytest.User, Password: registrytest.Password}, nil
}

// newClient returns a client with its own connections, which end with the test.
func newClient(t *testing.T, cfg registry.Config) *registry.Client {
	t.Helper()
	if cfg.Keychain == nil {
		cfg.Keychain = keychain{}
	}
	c, err := registry.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newSource(t *testing.T, c *registry.Client, cfg registry.SourceConfig) *registry.Source {
	t.Helper()
	s, err := registry.NewSource(c, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// open builds and opens the index of a stored layer.
func open(t *testing.T, blob []byte) *index.Layer {
	t.Helper()
	built, err := index.Build(t.Context(), bytes.NewReader(blob), index.BuildConfig{})
	if err != nil {
		t.Fatal(err)
	}
	layer, err := index.Open(bytes.NewReader(built.Encoded), int64(len(built.Encoded)))
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// stored is a layer that has been pushed and added to a source.
type stored struct {
	repo  name.Repository
	tar   []byte
	blob  []byte
	layer *index.Layer
}

func (st stored) request(first, count uint32, class block.Class) block.Request {
	return block.Request{Range: block.Range{Layer: st.layer.DiffID(), First: first, Count: count}, Class: class}
}

// store pushes a layer into the repository "app" of a registry.
func store(t *testing.T, r *registrytest.Registry, l registrytest.Layer) stored {
	t.Helper()
	l.Level = 1
	l.Blob = registrytest.Compress(t, l)
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{l}})
	r.ResetRequests()
	return stored{repo: r.Repository(t, "app"), tar: l.Tar, blob: l.Blob, layer: open(t, l.Blob)}
}

// fetch asks for blocks and returns those that came. What comes must be right.
func fetch(ctx context.Context, t *testing.T, src block.Source, st stored, req block.Request) (map[uint32]bool, error) {
	t.Helper()
	got := map[uint32]bool{}
	err := src.Fetch(ctx, req, func(k block.Key, data []byte) error {
		if got[k.Index] {
			t.Errorf("block %s came twice", k)
		}
		got[k.Index] = true
		end := min(k.Offset()+block.Size, int64(len(st.tar)))
		if !bytes.Equal(data, st.tar[k.Offset():end]) {
			t.Errorf("block %s is wrong", k)
		}
		return nil
	})
	return got, err
}

func withTimeout(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func rangeGet(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Range") != ""
}

// rerouted connects to addr whatever the name of the host.
func rerouted(t *testing.T, addr string) *http.Transport {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}
