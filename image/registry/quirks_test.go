package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/test/registrytest"
)

// kept is a cache of one layer, which refuses wrong blocks.
type kept struct {
	st     stored
	mu     sync.Mutex
	blocks map[uint32][]byte
}

func (c *kept) Put(_ context.Context, k block.Key, data []byte) error {
	if want, ok := c.st.layer.BlockDigest(k.Index); !ok || block.Sum(data) != want {
		return block.ErrCorrupt
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.blocks == nil {
		c.blocks = make(map[uint32][]byte)
	}
	c.blocks[k.Index] = bytes.Clone(data)
	return nil
}

func (c *kept) Fetch(_ context.Context, req block.Request, sink block.Sink) error {
	for i := range req.Count {
		k := req.Key(i)
		c.mu.Lock()
		data, ok := c.blocks[k.Index]
		c.mu.Unlock()
		if !ok {
			return block.ErrNotFound
		}
		if err := sink(k, data); err != nil {
			return err
		}
	}
	return nil
}

func (c *kept) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.blocks)
}

// reading joins a source as a node does, reading a layer through a proxy.
func reading(t *testing.T, client *registry.Client, repo name.Repository, st stored) (block.Source, *registry.Source, *kept) {
	t.Helper()
	cache := &kept{st: st}
	src := newSource(t, client, registry.SourceConfig{Cache: cache})
	t.Cleanup(src.Close)
	src.Add(repo, st.layer)
	retried := source.Retry(source.Verify(src, layout{st}, source.VerifyConfig{}),
		source.RetryConfig{MinDelay: time.Millisecond, MaxDelay: 2 * time.Millisecond})
	return source.ReadThrough(cache, retried, source.ReadThroughConfig{}), src, cache
}

// readAll reads every block, in an order that is not that of the layer, and several at a time.
func readAll(t *testing.T, st stored, reader block.Source) {
	t.Helper()
	total := block.Count(st.layer.StreamSize())
	var wg sync.WaitGroup
	for lane := range uint32(4) {
		wg.Go(func() {
			for n := range total {
				i := (n*7 + lane*11) % total
				if i%4 != lane {
					continue
				}
				got, err := readOnce(withTimeout(t, 30*time.Second), t, reader, st, i)
				if err != nil || !got[i] {
					t.Errorf("block %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
}

// readOnce repeats what is corrupt once, as mounts do.
func readOnce(ctx context.Context, t *testing.T, reader block.Source, st stored, i uint32) (map[uint32]bool, error) {
	t.Helper()
	got, err := fetch(ctx, t, reader, st, st.request(i, 1, block.ClassRead))
	if errors.Is(err, block.ErrCorrupt) {
		return fetch(ctx, t, reader, st, st.request(i, 1, block.ClassRead))
	}
	return got, err
}

func through(t *testing.T, p *registrytest.Proxy) name.Repository {
	t.Helper()
	repo, err := name.NewRepository(p.Addr() + "/app")
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// Whatever a registry or a proxy does to ranges, every block can be read, and a blob that has to
// be read whole is read whole once for all of them.
func TestOddRegistries(t *testing.T) {
	for _, kind := range []registrytest.Layer{
		{Compression: registrytest.Gzip}, {Compression: registrytest.Zstd, FrameSize: 300_000}, {Compression: registrytest.None},
	} {
		kind.Tar = megabytes(t, 6)
		r := registrytest.New(t, registrytest.Config{})
		st := store(t, r, kind)
		for _, odd := range registrytest.Quirks() {
			t.Run(fmt.Sprintf("%d %s", kind.Compression, odd.Name), func(t *testing.T) {
				t.Parallel()
				var whole counter
				p := registrytest.NewProxy(t, r, whole.count(odd.Fault))
				client := newClient(t, registry.Config{StallTimeout: patience(odd)})
				reader, src, cache := reading(t, client, through(t, p), st)
				readAll(t, st, reader)
				if total := int(block.Count(st.layer.StreamSize())); cache.len() != total {
					t.Errorf("%d of %d blocks in the cache", cache.len(), total)
				}
				want := 0
				if odd.Streamed {
					want = 1
				}
				if n := whole.n(); n != want {
					t.Errorf("%d requests for the whole blob, want %d", n, want)
				}
				if src.Unranged(st.layer.StreamID()) != odd.Streamed {
					t.Errorf("streamed: %v, want %v", !odd.Streamed, odd.Streamed)
				}
			})
		}
	}
}

// patience is short where something has to stall.
func patience(odd registrytest.Quirk) time.Duration {
	if strings.HasPrefix(odd.Name, "hanging") {
		return time.Second
	}
	return 15 * time.Second
}

// counter counts the requests for whole blobs.
type counter struct {
	mu    sync.Mutex
	whole int
}

func (c *counter) n() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whole
}

func (c *counter) count(fault registrytest.Fault) registrytest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !registrytest.Ranged(r) {
			c.mu.Lock()
			c.whole++
			c.mu.Unlock()
		}
		fault(w, r, next)
	}
}

// The same behind a redirect: the registry wants a token, and the storage that it redirects to
// ignores ranges.
func TestOddStorage(t *testing.T) {
	for _, odd := range registrytest.Quirks() {
		t.Run(odd.Name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken, Redirect: true})
			st := store(t, r, registrytest.Layer{Tar: megabytes(t, 4)})
			r.Inject(registrytest.Rule{Fault: odd.Fault, Match: func(req *http.Request) bool {
				return req.Method == http.MethodGet && req.URL.Query().Get("signature") != ""
			}})
			client := newClient(t, registry.Config{StallTimeout: patience(odd)})
			reader, _, _ := reading(t, client, st.repo, st)
			for i := range block.Count(st.layer.StreamSize()) {
				if i == 3 {
					r.RevokeTokens()
					r.ExpireRedirects()
				}
				if got, err := readOnce(withTimeout(t, 30*time.Second), t, reader, st, i); err != nil || !got[i] {
					t.Errorf("block %d: %v", i, err)
				}
			}
			for _, req := range r.BlobRequests() {
				if req.Server == "storage" && req.Authorization != "" {
					t.Error("the storage was shown a token")
				}
			}
		})
	}
}

// Ranges that are withdrawn while a layer is read, and come back.
func TestRangesWithdrawn(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 10)})
	p := registrytest.NewProxy(t, r, nil)
	reader, src, _ := reading(t, newClient(t, registry.Config{}), through(t, p), st)
	read := func(i uint32) {
		t.Helper()
		if got, err := readOnce(withTimeout(t, 20*time.Second), t, reader, st, i); err != nil || !got[i] {
			t.Fatalf("block %d: %v", i, err)
		}
	}
	read(20)
	if src.Unranged(st.layer.StreamID()) {
		t.Error("ranges are served")
	}
	p.Set(registrytest.OnRanges(registrytest.IgnoreRange()))
	read(0)
	p.Set(nil)
	for i := range block.Count(st.layer.StreamSize()) {
		read(i)
	}
}

// A stream that breaks off goes on where it was, although that can only be reached from the
// start.
func TestBrokenStream(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 6)})
	for _, faults := range [][]registrytest.Fault{
		{registrytest.Cut(len(st.blob) / 2)},
		{registrytest.Cut(len(st.blob) / 3), registrytest.Reset(len(st.blob) / 2)},
		{registrytest.Hang(len(st.blob) / 2)},
		{registrytest.Cut(len(st.blob) / 2), registrytest.Status(503), registrytest.Cut(-1)},
	} {
		var mu sync.Mutex
		left := faults
		p := registrytest.NewProxy(t, r, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if registrytest.Ranged(req) {
				registrytest.IgnoreRange()(w, req, next)
				return
			}
			mu.Lock()
			fault := registrytest.IgnoreRange()
			if len(left) > 0 {
				fault, left = left[0], left[1:]
			}
			mu.Unlock()
			fault(w, req, next)
		})
		reader, _, _ := reading(t, newClient(t, registry.Config{StallTimeout: time.Second}), through(t, p), st)
		last := block.Count(st.layer.StreamSize()) - 1
		if got, err := readOnce(withTimeout(t, 20*time.Second), t, reader, st, last); err != nil || !got[last] {
			t.Errorf("%v", err)
		}
	}
}

// The resumption of a whole blob, which conversion reads, does not need ranges either.
func TestOpenBlobWithoutRanges(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 10), Compression: registrytest.None})
	for _, odd := range []registrytest.Fault{
		registrytest.IgnoreRange(), registrytest.Status(416), registrytest.Multipart(), registrytest.ContentRange("bytes 0-99/100"),
	} {
		var once sync.Once
		p := registrytest.NewProxy(t, r, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			fault := registrytest.OnRanges(odd)
			once.Do(func() { fault = registrytest.Cut(len(st.blob) * 2 / 3) })
			fault(w, req, next)
		})
		body, err := newClient(t, registry.Config{}).OpenBlob(t.Context(), through(t, p), st.layer.BlobDigest(), st.layer.BlobSize())
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if _, err := got.ReadFrom(body); err != nil || !bytes.Equal(got.Bytes(), st.blob) {
			t.Errorf("%d of %d bytes, or wrong ones: %v", got.Len(), len(st.blob), err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Manifests and configurations that a proxy compresses are read.
func TestCompressedManifests(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	ref := r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: megabytes(t, 1)}}})
	for _, encoding := range []string{"gzip", "zstd", "deflate"} {
		r.ClearFaults()
		r.Inject(registrytest.Rule{Fault: registrytest.Recompress(encoding, true), Match: func(req *http.Request) bool {
			return req.Method == http.MethodGet && strings.Contains(req.URL.Path, "/app/")
		}})
		image, err := newClient(t, registry.Config{}).Resolve(t.Context(), r.Ref(t, "app:v1"), linux())
		if err != nil {
			t.Errorf("%s: %v", encoding, err)
		} else if image.Digest.String() != ref.DigestStr() {
			t.Errorf("%s: %s", encoding, image.Digest)
		}
	}
}

// What a repository serves is asked for once, and remembered.
func TestCheckRanges(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 4)})
	check := func(client *registry.Client, p *registrytest.Proxy) error {
		return client.CheckRanges(withTimeout(t, 10*time.Second), through(t, p), st.layer.BlobDigest(), st.layer.BlobSize())
	}
	for _, odd := range registrytest.Quirks() {
		p := registrytest.NewProxy(t, r, odd.Fault)
		client := newClient(t, registry.Config{StallTimeout: 2 * time.Second})
		if err := check(client, p); errors.Is(err, registry.ErrNoRanges) != odd.Shown {
			t.Errorf("%s: %v", odd.Name, err)
		}
	}
	for _, fault := range []registrytest.Fault{nil, registrytest.OnRanges(registrytest.IgnoreRange())} {
		p := registrytest.NewProxy(t, r, fault)
		client := newClient(t, registry.Config{})
		first := check(client, p)
		p.Set(registrytest.Status(500))
		if second := check(client, p); !errors.Is(second, first) {
			t.Errorf("first %v, then %v", first, second)
		}
	}
}
