package registry_test

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// headed is a layer in a registry, and its index there, of which only the head is local.
type headed struct {
	stored
	encoded []byte
	head    *index.Layer
}

func pushHeaded(t *testing.T, r *registrytest.Registry) headed {
	t.Helper()
	tar := registrytest.Tar(t, registrytest.File{Name: "prose", Data: registrytest.RandomText(7, 24<<20)})
	h := headed{stored: store(t, r, registrytest.Layer{Tar: tar})}
	built, err := index.Build(t.Context(), bytes.NewReader(h.blob), index.BuildConfig{})
	if err != nil {
		t.Fatal(err)
	}
	h.encoded = built.Encoded
	if size := int64(len(h.encoded)); built.Head.Size == 0 || 2*built.Head.Size > size || size-built.Head.Size < 80<<10 {
		t.Fatalf("the head has %d bytes of %d: nothing is shown", built.Head.Size, size)
	}
	if err := newClient(t, registry.Config{}).PushBlob(t.Context(), h.repo, h.encoded, registry.LayerMediaType); err != nil {
		t.Fatal(err)
	}
	layer := registry.Layer{Digest: h.layer.BlobDigest(), DiffID: h.layer.DiffID(), Size: h.layer.BlobSize()}
	digest, size := block.Sum(h.encoded), int64(len(h.encoded))
	h.head, err = registry.OpenIndexHead(layer, bytes.NewReader(h.encoded[:built.Head.Size]), built.Head, digest, size)
	if err != nil {
		t.Fatal(err)
	}
	r.ResetRequests()
	return h
}

// ofIndex counts the requests for the index and their bytes.
func (h headed) ofIndex(r *registrytest.Registry) (requests int, sent int64) {
	for _, req := range r.BlobRequests() {
		if strings.HasSuffix(req.Path, block.Sum(h.encoded).Hex()) {
			requests++
			sent += req.Bytes
		}
	}
	return requests, sent
}

func (h headed) isIndex(req *http.Request) bool {
	return req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, block.Sum(h.encoded).Hex())
}

// objects is a store in memory.
type objects struct {
	mu  sync.Mutex
	all map[block.Digest][]byte
}

func (o *objects) Get(digest block.Digest, _ int64) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if content, ok := o.all[digest]; ok {
		return content, nil
	}
	return nil, block.ErrNotFound
}

func (o *objects) Put(digest block.Digest, content []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all[digest] = content
	return nil
}

// With the head of an index every block can be read. The windows are fetched in parts, each once,
// and not again by a source that finds them in the store.
func TestWindowsAreFetchedWhenTheyAreNeeded(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	h := pushHeaded(t, r)
	kept := &objects{all: make(map[block.Digest][]byte)}
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{Parts: kept})
	src.Add(h.repo, h.head)
	if _, err := fetch(t.Context(), t, src, h.stored, h.request(0, 1, block.ClassRead)); err != nil {
		t.Fatal(err)
	}
	if n, sent := h.ofIndex(r); n != 0 {
		t.Errorf("the first frame, which has no window, cost %d requests for the index, %d bytes", n, sent)
	}
	last := block.Count(h.layer.StreamSize()) - 1
	if _, err := fetch(t.Context(), t, src, h.stored, h.request(last, 1, block.ClassRead)); err != nil {
		t.Fatal(err)
	}
	if n, sent := h.ofIndex(r); n == 0 || n > 2 || sent > 2*64<<10 {
		t.Errorf("the last frame cost %d requests for the index, %d bytes", n, sent)
	}
	var wg sync.WaitGroup
	for i := range last {
		wg.Go(func() {
			if _, err := fetch(t.Context(), t, src, h.stored, h.request(i, 1, block.ClassRead)); err != nil {
				t.Errorf("block %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	windows := int64(len(h.encoded)) - headSize(h)
	if _, sent := h.ofIndex(r); sent > windows {
		t.Errorf("%d bytes of the index were sent for windows of %d", sent, windows)
	}
	src.Close()
	r.ResetRequests()
	again := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{Parts: kept})
	again.Add(h.repo, h.head)
	if _, err := fetch(t.Context(), t, again, h.stored, h.request(last, 1, block.ClassRead)); err != nil {
		t.Fatal(err)
	}
	if n, _ := h.ofIndex(r); n != 0 {
		t.Errorf("%d requests for windows that are in the store", n)
	}
}

func headSize(h headed) int64 {
	size := int64(len(h.encoded))
	for frame := range h.head.FrameCount() {
		for _, part := range h.head.WindowParts(frame) {
			size = min(size, part.Offset)
		}
	}
	return size
}

// Windows that come wrong, late or not at all are an error or are repeated, never a wrong block. The
// next read works.
func TestFaultsOfWindows(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	h := pushHeaded(t, r)
	last := block.Count(h.layer.StreamSize()) - 1
	for name, tt := range map[string]struct {
		fault registrytest.Fault
		times int
		is    error // nil for none
	}{
		"cut once":       {registrytest.Cut(1000), 1, nil},
		"broken once":    {registrytest.Status(500), 1, nil},
		"flipped once":   {registrytest.Flip(10), 1, nil},
		"ranges ignored": {registrytest.IgnoreRange(), 0, nil},
		"refused":        {registrytest.OnRanges(registrytest.Status(416)), 0, nil},
		"flipped":        {registrytest.Flip(10), 0, registry.ErrInvalid},
		"not found":      {registrytest.Status(404), 0, block.ErrNotFound},
		"denied":         {registrytest.Status(403), 0, registry.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			r.ClearFaults()
			src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
			src.Add(h.repo, h.head)
			r.Inject(registrytest.Rule{Fault: tt.fault, Times: tt.times, Match: h.isIndex})
			_, err := fetch(withTimeout(t, 14*time.Second), t, src, h.stored, h.request(last, 1, block.ClassRead))
			if tt.is == nil && err != nil || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			r.ClearFaults()
			if _, err := fetch(t.Context(), t, src, h.stored, h.request(last, 1, block.ClassRead)); err != nil {
				t.Errorf("the next read: %v", err)
			}
		})
	}
}
