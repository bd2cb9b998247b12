package registry_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/test/registrytest"
)

func patches(req *http.Request) bool { return req.Method == http.MethodPatch }
func puts(req *http.Request) bool    { return req.Method == http.MethodPut }

// halfway reads half of a body and breaks the connection, before the registry has seen any of it.
func halfway(_ http.ResponseWriter, req *http.Request, _ http.Handler) {
	if _, err := io.CopyN(io.Discard, req.Body, req.ContentLength/2); err != nil {
		panic(err)
	}
	panic(http.ErrAbortHandler)
}

// unanswered lets the registry do what it is asked, and breaks the connection before it says so.
func unanswered(_ http.ResponseWriter, req *http.Request, next http.Handler) {
	next.ServeHTTP(&silent{header: http.Header{}}, req)
	panic(http.ErrAbortHandler)
}

type silent struct{ header http.Header }

func (s *silent) Header() http.Header         { return s.header }
func (s *silent) Write(p []byte) (int, error) { return len(p), nil }
func (s *silent) WriteHeader(int)             {}

// A blob is stored whatever its length and whatever happens on its way, without a file where the
// registry takes chunks.
func TestUpload(t *testing.T) {
	for _, tt := range []struct {
		name  string
		size  int
		rules []registrytest.Rule
		file  bool
	}{
		{name: "empty", size: 0},
		{name: "small", size: 100_000},
		{name: "one chunk", size: 8 << 20},
		{name: "several chunks", size: 20 << 20},
		{name: "a chunk breaks off", size: 20 << 20, rules: []registrytest.Rule{{Fault: halfway, Match: patches, Times: 2}}},
		{name: "the answer to a chunk is lost", size: 20 << 20, rules: []registrytest.Rule{{Fault: unanswered, Match: patches, Times: 1}}},
		{name: "busy", size: 20 << 20, rules: []registrytest.Rule{
			{Fault: registrytest.Status(429, "Retry-After", "0"), Match: patches, Times: 1},
			{Fault: registrytest.Status(503), Match: puts, Times: 1},
		}},
		{name: "the answer to the end is lost", size: 20 << 20, rules: []registrytest.Rule{{Fault: unanswered, Match: puts, Times: 1}}},
		{name: "the answer to all is lost", size: 1000, rules: []registrytest.Rule{{Fault: unanswered, Match: puts, Times: 1}}},
		{name: "no chunks", size: 20 << 20, file: true, rules: []registrytest.Rule{{Fault: registrytest.Status(405), Match: patches}}},
		{name: "no chunks and busy", size: 20 << 20, file: true, rules: []registrytest.Rule{
			{Fault: registrytest.Status(404), Match: patches},
			{Fault: registrytest.Status(503), Match: puts, Times: 2},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken})
			c := newClient(t, registry.Config{})
			repo := r.Repository(t, "some/app")
			content := blocktest.Random(byte(tt.size), tt.size)
			for _, rule := range tt.rules {
				r.Inject(rule)
			}
			scratch := t.TempDir()
			u := c.NewUpload(t.Context(), repo, scratch)
			for rest := content; len(rest) > 0; {
				n := min(len(rest), 300_000)
				if _, err := u.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := u.Commit(block.Sum(content)); err != nil {
				t.Fatal(err)
			}
			r.ClearFaults()
			got, err := c.ReadBlob(t.Context(), repo, block.Sum(content), int64(len(content)), 1<<30)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("reading the blob: %d bytes, %v", len(got), err)
			}
			left, err := os.ReadDir(scratch)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			if _, err := u.Write([]byte("more")); err == nil {
				t.Error("writing after the end succeeded")
			}
		})
	}
}

// Where the registry takes chunks, no file is made: there is no directory for one.
func TestUploadNeedsNoFile(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	c := newClient(t, registry.Config{})
	content := blocktest.Random(1, 20<<20)
	upload := func() error {
		u := c.NewUpload(t.Context(), r.Repository(t, "app"), "/nonexistent")
		_, err := u.Write(content)
		if err != nil {
			return errors.Join(err, u.Abort())
		}
		return u.Commit(block.Sum(content))
	}
	if err := upload(); err != nil {
		t.Error(err)
	}
	r.Inject(registrytest.Rule{Fault: registrytest.Status(405), Match: patches})
	if err := upload(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no chunks and no directory: %v", err)
	}
}

// What is given up, refused or of another digest is not stored.
func TestUploadFails(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rule  *registrytest.Rule
		is    error
		abort bool
		other bool
	}{
		{name: "abort", abort: true},
		{name: "wrong digest", other: true},
		{name: "denied", rule: &registrytest.Rule{Fault: registrytest.Status(403), Match: patches}, is: registry.ErrDenied},
		{name: "quota", rule: &registrytest.Rule{Fault: registrytest.Status(507), Match: puts}, is: block.ErrUnavailable},
		{name: "elsewhere", rule: &registrytest.Rule{
			Fault: registrytest.Status(202, "Location", "http://10.1.2.3/upload"),
			Match: func(req *http.Request) bool { return req.Method == http.MethodPost },
		}, is: registry.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := registrytest.New(t, registrytest.Config{})
			c := newClient(t, registry.Config{StallTimeout: 20 * time.Second})
			content := blocktest.Random(1, 20<<20)
			if tt.rule != nil {
				r.Inject(*tt.rule)
			}
			u := c.NewUpload(t.Context(), r.Repository(t, "app"), t.TempDir())
			_, err := u.Write(content)
			digest := block.Sum(content)
			if tt.other {
				digest = block.Sum(nil)
			}
			switch {
			case tt.abort:
				err = errors.Join(err, u.Abort())
			case err == nil:
				err = u.Commit(digest)
			default:
				if abortErr := u.Abort(); abortErr != nil {
					t.Error(abortErr)
				}
			}
			if tt.abort != (err == nil) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
			r.ClearFaults()
			for _, d := range []block.Digest{block.Sum(content), digest} {
				if _, err := c.OpenBlob(t.Context(), r.Repository(t, "app"), d, 20<<20); !errors.Is(err, block.ErrNotFound) {
					t.Errorf("blob %s: %v", d, err)
				}
			}
			cancelled := false
			for _, req := range r.Requests() {
				cancelled = cancelled || req.Method == http.MethodDelete && strings.Contains(req.Path, "/blobs/uploads/")
			}
			if cancelled == (tt.name == "elsewhere") {
				t.Errorf("upload cancelled: %t", cancelled)
			}
		})
	}
}
