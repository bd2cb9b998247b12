package localregistry_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/internal/localregistry"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/docker/go-events.(*Broadcaster).run"))
}

func start(t *testing.T, cfg localregistry.Config) *localregistry.Server {
	t.Helper()
	s, err := localregistry.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func client(t *testing.T) *http.Transport {
	t.Helper()
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func TestPushAndPull(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  localregistry.Config
	}{
		{"distribution in memory", localregistry.Config{}},
		{"distribution on disk", localregistry.Config{Root: t.TempDir()}},
		{"referrers in memory", localregistry.Config{Referrers: true}},
		{"referrers on disk", localregistry.Config{Referrers: true, Root: t.TempDir()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, tt.cfg)
			img, err := random.Image(100<<10, 2)
			if err != nil {
				t.Fatal(err)
			}
			ref, err := name.ParseReference(s.Addr() + "/some/image:v1")
			if err != nil {
				t.Fatal(err)
			}
			tr := client(t)
			if err := remote.Write(ref, img, remote.WithTransport(tr)); err != nil {
				t.Fatal(err)
			}
			if err := s.Pause(); err != nil {
				t.Fatal(err)
			}
			if _, err := remote.Head(ref, remote.WithTransport(client(t)), remote.WithRetryPredicate(func(error) bool { return false })); err == nil {
				t.Fatal("a paused registry answered")
			}
			if err := s.Resume(); err != nil {
				t.Fatal(err)
			}
			got, err := remote.Head(ref, remote.WithTransport(tr))
			if err != nil {
				t.Fatal(err)
			}
			if want, err := img.Digest(); err != nil || got.Digest != want {
				t.Errorf("digest %v, want %v (%v)", got.Digest, want, err)
			}
		})
	}
}

// A limit of 16 Mbit/s lets 320 KiB through in no less than 128 ms: the burst is
// free, the other 256 KiB are not.
func TestLimit(t *testing.T) {
	payload := bytes.Repeat([]byte("x"), 320<<10)
	s := start(t, localregistry.Config{
		BitsPerSecond: 16 << 20,
		Wrap: func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if _, err := w.Write(payload); err != nil {
					t.Error(err)
				}
			})
		},
	})
	began := time.Now()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+"/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client(t).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || len(got) != len(payload) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if elapsed := time.Since(began); elapsed < 115*time.Millisecond {
		t.Errorf("took %v, the limit asks for 125 ms", elapsed)
	}
	stats := s.Stats()
	if stats.Requests != 1 || stats.BytesSent < int64(len(payload)) {
		t.Errorf("stats %+v", stats)
	}
}

func TestStartRefuses(t *testing.T) {
	if _, err := localregistry.Start(t.Context(), localregistry.Config{BitsPerSecond: -1}); err == nil {
		t.Error("negative limit accepted")
	}
	if _, err := localregistry.Start(t.Context(), localregistry.Config{Addr: "256.0.0.1:1"}); err == nil {
		t.Error("impossible address accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := localregistry.Start(ctx, localregistry.Config{}); err == nil {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
