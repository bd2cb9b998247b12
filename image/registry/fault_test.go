package registry_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/test/registrytest"
)

func countDials(t *testing.T) (*http.Transport, func() int64) {
	t.Helper()
	var n atomic.Int64
	transport := &http.Transport{
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			n.Add(1)
			var d net.Dialer
			return d.DialContext(ctx, network, addr)
		},
	}
	return transport, n.Load
}

// Every way in which a registry answers a read wrongly ends soon, with an error
// that says what happened, and without a wrong block. The next read works.
func TestFaults(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 10)})
	for _, tt := range []struct {
		name  string
		fault registrytest.Fault
		block uint32
		is    error
		text  string
	}{
		{"cut before the answer", registrytest.Cut(-1), 20, block.ErrUnavailable, "EOF"},
		{"cut", registrytest.Cut(1000), 20, block.ErrUnavailable, "bytes missing"},
		{"hanging before the answer", registrytest.Hang(-1), 20, block.ErrUnavailable, "no bytes arrived in time"},
		{"hanging", registrytest.Hang(1000), 20, block.ErrUnavailable, "no bytes arrived in time"},
		{"not found", registrytest.Status(404), 20, block.ErrNotFound, "404"},
		{"denied", registrytest.Status(401), 20, registry.ErrDenied, "401"},
		{"forbidden", registrytest.Status(403), 20, registry.ErrDenied, "403"},
		{"too many", registrytest.Status(429, "Retry-After", "7"), 20, block.ErrUnavailable, "429"},
		{"broken", registrytest.Status(500), 20, block.ErrUnavailable, "500"},
		{"bad gateway", registrytest.Status(502), 20, block.ErrUnavailable, "502"},
		{"not satisfiable", registrytest.Status(416), 20, registry.ErrNoRanges, "416"},
		{"teapot", registrytest.Status(418), 20, nil, "418"},
		{"wrong range", registrytest.ContentRange("bytes 0-99/100"), 20, registry.ErrInvalid, "Content-Range"},
		{"no range", registrytest.ContentRange("zero to nine"), 20, registry.ErrInvalid, "zero to nine"},
		{"shortened", registrytest.Shorten(), 20, registry.ErrInvalid, "asked for"},
		{"redirected in circles", registrytest.Status(307, "Location", "/v2/app/blobs/"+st.layer.BlobDigest().String()), 20, registry.ErrInvalid, "redirects"},
		{"redirected nowhere", registrytest.Status(307), 20, registry.ErrInvalid, "redirect"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer r.ClearFaults()
			cfg := registry.Config{}
			if strings.HasPrefix(tt.name, "hanging") {
				cfg.StallTimeout = time.Second
			}
			src := newSource(t, newClient(t, cfg), registry.SourceConfig{})
			src.Add(st.repo, st.layer)
			if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); err != nil {
				t.Fatal(err)
			}
			r.Inject(registrytest.Rule{Fault: tt.fault})
			ctx := withTimeout(t, 14*time.Second)
			_, err := fetch(ctx, t, src, st, st.request(tt.block, 1, block.ClassRead))
			if err == nil || (tt.is != nil && !errors.Is(err, tt.is)) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want one that is %q and says %q", err, tt.is, tt.text)
			}
			if ctx.Err() != nil {
				t.Error("it took until the deadline")
			}
			if _, ok := errors.AsType[*block.Error](err); !ok {
				t.Errorf("%T is no *block.Error", err)
			}
			r.ClearFaults()
			if _, err := fetch(t.Context(), t, src, st, st.request(tt.block, 1, block.ClassRead)); err != nil {
				t.Errorf("the next read: %v", err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: registrytest.Tar(t)})
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	r.Inject(registrytest.Rule{Fault: registrytest.Status(429, "Retry-After", "7"), Times: 1})
	_, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead))
	status, ok := errors.AsType[*registry.StatusError](err)
	if !ok || status.RetryAfter() != 7*time.Second || status.Code != 429 {
		t.Errorf("error %v", err)
	}
}

// Whatever byte of an answer is wrong, verification in front of the source keeps
// it from the reader, and the second attempt brings the right block.
func TestFlippedBytes(t *testing.T) {
	for _, compression := range []registrytest.Compression{registrytest.Gzip, registrytest.Zstd, registrytest.None} {
		r := registrytest.New(t, registrytest.Config{})
		st := store(t, r, registrytest.Layer{
			Tar: megabytes(t, 4), Compression: compression, FrameSize: 500_000,
		})
		for _, offset := range []int{0, 1, 9, 1000, 50_000, 120_000} {
			registrySource := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
			registrySource.Add(st.repo, st.layer)
			verified := source.Verify(registrySource, layout{st}, source.VerifyConfig{})
			r.Inject(registrytest.Rule{Fault: registrytest.Flip(offset), Times: 1})
			got, err := fetch(t.Context(), t, verified, st, st.request(4, 1, block.ClassRead))
			if got[4] && err != nil {
				t.Errorf("compression %v, byte %d: delivered, yet %v", compression, offset, err)
			}
			if err != nil && !errors.Is(err, block.ErrCorrupt) {
				t.Errorf("compression %v, byte %d: %v", compression, offset, err)
			}
			r.ClearFaults()
			if got, err := fetch(t.Context(), t, verified, st, st.request(4, 1, block.ClassRead)); err != nil || !got[4] {
				t.Errorf("compression %v, byte %d, again: %v", compression, offset, err)
			}
		}
	}
}

// layout tells the lengths and digests of one layer.
type layout struct{ st stored }

func (l layout) StreamSize(layer block.Digest) (int64, bool) {
	return l.st.layer.StreamSize(), layer == l.st.layer.StreamID()
}

func (l layout) BlockDigest(k block.Key) (block.Digest, bool) { return l.st.layer.BlockDigest(k.Index) }

// A registry that goes away gives errors at once, and works again when it is back.
func TestGoneAndBack(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 4)})
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	for range 2 {
		if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); err != nil {
			t.Fatal(err)
		}
		if err := r.Pause(); err != nil {
			t.Fatal(err)
		}
		ctx := withTimeout(t, 5*time.Second)
		if _, err := fetch(ctx, t, src, st, st.request(8, 1, block.ClassRead)); !errors.Is(err, block.ErrUnavailable) || ctx.Err() != nil {
			t.Errorf("gone: %v", err)
		}
		if err := r.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fetch(t.Context(), t, src, st, st.request(8, 1, block.ClassRead)); err != nil {
		t.Errorf("back: %v", err)
	}
}

// A reader that gives up is not kept waiting.
func TestCancelled(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 4)})
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	for _, n := range []int{-1, 1000} {
		asked := make(chan struct{})
		hang := registrytest.Hang(n)
		r.Inject(registrytest.Rule{Times: 1, Fault: func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			close(asked)
			hang(w, req, next)
		}})
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("reader went away")
		go func() {
			<-asked
			cancel(cause)
		}()
		if _, err := fetch(ctx, t, src, st, st.request(0, 1, block.ClassRead)); !errors.Is(err, cause) {
			t.Errorf("error %v", err)
		}
	}
}

// A sink that is slow does not make the registry look stalled.
func TestSlowSink(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 4)})
	stall := 2 * time.Second
	src := newSource(t, newClient(t, registry.Config{StallTimeout: stall}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	slow := true
	err := src.Fetch(t.Context(), st.request(0, 16, block.ClassFill), func(block.Key, []byte) error {
		if slow {
			slow = false
			<-time.After(2 * stall)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
