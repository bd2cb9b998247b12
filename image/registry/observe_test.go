package registry_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// TestOnRequest reads a blob, and one that is not there.
func TestOnRequest(t *testing.T) {
	blob := strings.Repeat("content ", 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// What is asked for first, whether this is a registry, is answered with nothing.
		if strings.HasSuffix(r.URL.Path, block.Sum([]byte(blob)).String()) {
			<-time.After(20 * time.Millisecond)
			_, _ = io.WriteString(w, blob) //nolint:errcheck // the client finds out
			return
		}
		if r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	var mu sync.Mutex
	var seen []registry.Exchange
	client, err := registry.NewClient(registry.Config{OnRequest: func(e registry.Exchange) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, e)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	repo, err := name.NewRepository(host + "/app")
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if _, err := client.ReadBlob(t.Context(), repo, block.Sum([]byte(blob)), int64(len(blob)), 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ReadBlob(t.Context(), repo, block.Sum([]byte("other")), 5, 1<<20); err == nil {
		t.Fatal("a blob that is not there was read")
	}
	mu.Lock()
	defer mu.Unlock()
	var bytes, missing int64
	for _, e := range seen {
		if e.Host != host || e.Began.Before(before) || e.FirstByte <= 0 || e.Took < e.FirstByte {
			t.Errorf("request %+v", e)
		}
		if strings.HasPrefix(e.Path, "/v2/app/blobs/") && e.Status == http.StatusOK {
			bytes += e.Bytes
			if e.FirstByte < 20*time.Millisecond {
				t.Errorf("the first byte came after %s", e.FirstByte)
			}
		}
		if e.Status == http.StatusNotFound && strings.Contains(e.Path, "/blobs/") {
			missing++
		}
	}
	if bytes != int64(len(blob)) || missing == 0 {
		t.Errorf("%d bytes and %d answers that a blob is missing, want %d and some: %+v", bytes, missing, len(blob), seen)
	}
}
