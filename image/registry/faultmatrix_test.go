package registry_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/test/registrytest"
)

// outcome is what a fault leads to for who reads through the usual decorators.
type outcome struct {
	name  string
	fault registrytest.Fault
	// once is whether a fault that happens once is not noticed by the reader, and ranged
	// whether one is not that does not end but spares requests for whole blobs.
	once, ranged bool
	// is and text are those of the error when the fault does not end, nil if there is none;
	// requests is the most requests for blobs that are made then, one of them for the whole.
	is       error
	text     string
	requests int
}

// attempts is how often a read is tried.
const attempts = 3

func outcomes() []outcome {
	return []outcome{
		{"401", registrytest.Status(401), true, true, registry.ErrDenied, "401", 3 * attempts},
		{"403", registrytest.Status(403), true, true, registry.ErrDenied, "403", attempts + 1},
		{"404", registrytest.Status(404), false, false, block.ErrNotFound, "404", 1},
		{"429", registrytest.Status(429), true, false, block.ErrUnavailable, "429", attempts},
		{"429 for a second", registrytest.Status(429, "Retry-After", "1"), true, false, block.ErrUnavailable, "429", attempts},
		{"429 for an hour", registrytest.Status(429, "Retry-After", "3600"), false, false, block.ErrUnavailable, "429", 1},
		{"500", registrytest.Status(500), true, true, block.ErrUnavailable, "500", attempts + 1},
		{"503", registrytest.Status(503), true, false, block.ErrUnavailable, "503", attempts},
		{"hangs", registrytest.Hang(-1), true, true, block.ErrUnavailable, "no bytes arrived in time", attempts + 1},
		{"hangs in a body", registrytest.Hang(1000), true, true, block.ErrUnavailable, "no bytes arrived in time", attempts + 1},
		{"reset", registrytest.Reset(-1), true, true, block.ErrUnavailable, "reset", 3 * attempts},
		{"reset in a body", registrytest.Reset(1000), true, true, block.ErrUnavailable, "bytes missing", attempts + 1},
		{"short body", registrytest.Cut(1000), true, true, block.ErrUnavailable, "bytes missing", attempts + 1},
		{"short body, announced", registrytest.Shorten(), true, true, registry.ErrInvalid, "blob of", attempts + 1},
		{"wrong range", registrytest.ContentRange("bytes 0-99/100"), true, true, nil, "", attempts + 1},
		{"no range", registrytest.ContentRange("some"), true, true, nil, "", attempts + 1},
		{"wrong bytes", registrytest.Flip(10), true, true, block.ErrCorrupt, "", 3},
		{"redirect to nobody", registrytest.Status(307, "Location", "http://127.0.0.1:1/x"), true, true, block.ErrUnavailable, "refused", attempts + 1},
		{"ranges ignored", registrytest.IgnoreRange(), true, true, nil, "", 2},
		{"not satisfiable", registrytest.Status(416), true, true, registry.ErrNoRanges, "416", 2 * attempts},
		{"redirect without a place", registrytest.Status(307), true, true, registry.ErrInvalid, "redirect", attempts + 1},
	}
}

// Every fault of a registry has an outcome: it goes unnoticed if it is over soon, and
// otherwise ends in an error that says what happened, after a bounded number of
// requests. The read after it works. docs/failures.md is the table of it.
func TestFaultMatrix(t *testing.T) {
	r, st := private(t, registrytest.AuthToken)
	for _, tt := range outcomes() {
		t.Run(tt.name, func(t *testing.T) {
			defer r.ClearFaults()
			// Silence that is not that of the fault does not count on a busy machine.
			cfg := registry.Config{}
			if strings.HasPrefix(tt.name, "hangs") {
				cfg.StallTimeout = time.Second
			}
			client := newClient(t, cfg)
			read := func(times int, match func(*http.Request) bool) (requests int, took time.Duration, err error) {
				src := newSource(t, client, registry.SourceConfig{})
				src.Add(st.repo, st.layer)
				reader := source.Retry(source.Verify(src, layout{st}, source.VerifyConfig{}),
					source.RetryConfig{Attempts: attempts, MinDelay: time.Millisecond, MaxDelay: 2 * time.Millisecond})
				r.ClearFaults()
				if times != 0 {
					r.Inject(registrytest.Rule{Fault: tt.fault, Match: match, Times: max(0, times)})
				}
				r.ResetRequests()
				started := time.Now()
				got, err := fetch(t.Context(), t, reader, st, st.request(8, 1, block.ClassRead))
				if err == nil && !got[8] {
					t.Error("neither a block nor an error")
				}
				return len(r.BlobRequests()), time.Since(started), err
			}
			if _, _, err := read(0, nil); err != nil {
				t.Fatal(err)
			}
			if _, _, err := read(1, rangeGet); (err == nil) != tt.once || (err != nil && !errors.Is(err, tt.is)) {
				t.Errorf("once: %v", err)
			}
			requests, took, err := read(-1, nil)
			if !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("for ever: %v, want %v and %q", err, tt.is, tt.text)
			}
			if requests > tt.requests || took > 30*time.Second {
				t.Errorf("for ever: %d requests in %s, want %d at most", requests, took, tt.requests)
			}
			if _, _, err := read(-1, rangeGet); (err == nil) != tt.ranged {
				t.Errorf("for ever, for ranges: %v", err)
			}
			if _, _, err := read(0, nil); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// The same for the service that gives tokens out, when a token has ended.
func TestTokenServiceFaults(t *testing.T) {
	r, st := private(t, registrytest.AuthToken)
	plain := func(content string) registrytest.Fault {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			if _, err := w.Write([]byte(content)); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}
	for _, tt := range []struct {
		name  string
		fault registrytest.Fault
		is    error
		text  string
	}{
		{"401", registrytest.Status(401), registry.ErrDenied, "401"},
		{"403", registrytest.Status(403), registry.ErrDenied, "403"},
		{"429", registrytest.Status(429), block.ErrUnavailable, "429"},
		{"500", registrytest.Status(500), block.ErrUnavailable, "500"},
		{"hangs", registrytest.Hang(-1), nil, "deadline exceeded"},
		{"reset", registrytest.Reset(-1), block.ErrUnavailable, "reset"},
		{"no JSON", plain("<" + registrytest.Password), registry.ErrInvalid, "without a token"},
		{"no token", plain(`{"refresh_token":"` + registrytest.Password + `"}`), registry.ErrInvalid, "without a token"},
		{"cut", registrytest.Cut(5), block.ErrUnavailable, "EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer r.ClearFaults()
			cfg := registry.Config{}
			if tt.name == "hangs" {
				cfg.LoginTimeout = 2 * time.Second
			}
			src := newSource(t, newClient(t, cfg), registry.SourceConfig{})
			src.Add(st.repo, st.layer)
			read := func() error {
				r.RevokeTokens()
				_, err := fetch(t.Context(), t, src, st, st.request(8, 1, block.ClassRead))
				return err
			}
			if err := read(); err != nil {
				t.Fatal(err)
			}
			r.Inject(registrytest.Rule{Fault: tt.fault, Match: registrytest.Token})
			started := time.Now()
			for range 2 {
				err := read()
				if err == nil || (tt.is != nil && !errors.Is(err, tt.is)) || !strings.Contains(err.Error(), tt.text) {
					t.Errorf("error %v, want %v and %q", err, tt.is, tt.text)
				}
				if strings.Contains(err.Error(), registrytest.Password) {
					t.Errorf("the error tells: %v", err)
				}
			}
			if took := time.Since(started); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			r.ClearFaults()
			if err := read(); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}
