package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

// newClient returns a client with its own connections, which end with the test.
func newClient(t *testing.T, cfg registry.Config) *registry.Client {
	t.Helper()
	if cfg.Keychain == nil {
		cfg.Keychain = registrytest.Keychain(registrytest.User)
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
	return block.Request{Range: block.Range{Layer: st.layer.StreamID(), First: first, Count: count}, Class: class}
}

// prepared holds what is slow to make, under the race detector above all, for the
// tests that use the same.
var prepared sync.Map

// megabytes returns a tar of n files of 1 MiB.
func megabytes(t *testing.T, n int) []byte {
	t.Helper()
	if got, ok := prepared.Load(n); ok {
		if made, ok := got.([]byte); ok {
			return made
		}
	}
	made := registrytest.Tar(t, registrytest.Files(1, n, 1<<20)...)
	prepared.Store(n, made)
	return made
}

// prepare compresses a layer and opens its index.
func prepare(t *testing.T, l registrytest.Layer) stored {
	t.Helper()
	key := fmt.Sprintf("%s %d %d", block.Sum(l.Tar), l.Compression, l.FrameSize)
	if got, ok := prepared.Load(key); ok {
		if made, ok := got.(stored); ok {
			return made
		}
	}
	l.Level = 1
	blob := registrytest.Compress(t, l)
	made := stored{tar: l.Tar, blob: blob, layer: open(t, blob)}
	prepared.Store(key, made)
	return made
}

// store pushes a layer into the repository "app" of a registry.
func store(t *testing.T, r *registrytest.Registry, l registrytest.Layer) stored {
	t.Helper()
	made := prepare(t, l)
	l.Blob = made.blob
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{l}})
	r.ResetRequests()
	made.repo = r.Repository(t, "app")
	return made
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

func rangeGet(r *http.Request) bool { return registrytest.Ranged(r) }

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
