package registry_test

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestOpenRangesReadsThroughEverything reads a blob in parallel where ranges are served, and
// in one way or another where they are not.
func TestOpenRangesReadsThroughEverything(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 2), Compression: registrytest.None})
	odd := append(registrytest.Quirks(), registrytest.Quirk{Name: "none"}, registrytest.Quirk{Name: "capped", Fault: registrytest.OnRanges(registrytest.CapRange(100_000))},
		registrytest.Quirk{Name: "cut", Fault: registrytest.OnRanges(registrytest.Cut(300_000))})
	for _, odd := range odd {
		if odd.Name == "from the start" {
			continue // the answers look right: only a digest tells
		}
		t.Run(odd.Name, func(t *testing.T) {
			t.Parallel()
			var ranged, flying, most atomic.Int64
			p := registrytest.NewProxy(t, r, func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if registrytest.Ranged(req) {
					ranged.Add(1)
					most.Store(max(most.Load(), flying.Add(1)))
					defer flying.Add(-1)
				}
				if odd.Fault == nil {
					next.ServeHTTP(w, req)
					return
				}
				odd.Fault(w, req, next)
			})
			for _, cfg := range []registry.RangesConfig{{}, {Requests: 3, Size: 300_001}} {
				body, err := newClient(t, registry.Config{StallTimeout: 3 * time.Second}).OpenRanges(
					withTimeout(t, 60*time.Second), through(t, p), st.layer.BlobDigest(), st.layer.BlobSize(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				var got bytes.Buffer
				if _, err := got.ReadFrom(body); err != nil || !bytes.Equal(got.Bytes(), st.blob) {
					t.Errorf("%+v: %d of %d bytes, or wrong ones: %v", cfg, got.Len(), len(st.blob), err)
				}
				if err := body.Close(); err != nil {
					t.Error(err)
				}
			}
			if odd.Fault == nil && (ranged.Load() < 8 || most.Load() < 2 || most.Load() > 8) {
				t.Errorf("%d requests for ranges, %d at a time", ranged.Load(), most.Load())
			}
		})
	}
}

// TestOpenRangesEnds ends a reader in the middle, and one whose registry has nothing.
func TestOpenRangesEnds(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 6), Compression: registrytest.None})
	p := registrytest.NewProxy(t, r, nil)
	client := newClient(t, registry.Config{StallTimeout: time.Second})
	ctx, cancel := context.WithCancelCause(t.Context())
	body, err := client.OpenRanges(ctx, through(t, p), st.layer.BlobDigest(), st.layer.BlobSize(), registry.RangesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := body.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	cause := errors.New("no longer wanted")
	cancel(cause)
	for err == nil {
		_, err = body.Read(make([]byte, 1<<20))
	}
	if !errors.Is(err, cause) {
		t.Errorf("after its context has ended: %v", err)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	p.Set(registrytest.Status(404))
	body, err = client.OpenRanges(t.Context(), through(t, p), st.layer.BlobDigest(), st.layer.BlobSize(), registry.RangesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := body.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes of a blob that is not there", n)
	}
	if err := body.Close(); err != nil {
		t.Error(err)
	}
}
