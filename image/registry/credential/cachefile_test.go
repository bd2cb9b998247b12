package credential

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
)

// filled saves a store with a lease of a plugin and a captured credential, and
// returns its configuration.
func filled(t *testing.T) Config {
	t.Helper()
	cfg := Config{Path: filepath.Join(t.TempDir(), "state", "credentials")}
	s := open(t, Config{Path: cfg.Path, Sources: []Source{&scripted{
		name: "cloud", answers: []Answer{{Secret: basic(t, "a", hidden), Expires: time.Now().Add(time.Hour)}},
	}}})
	expect(t, "before", walk(t, s, "a:"+hidden), "a:"+hidden)
	if err := s.Capture(repo(t, "k.example/app"), authn.AuthConfig{IdentityToken: hidden}); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// What was accepted or captured is there after a restart, and no source is asked.
func TestRestart(t *testing.T) {
	cfg := filled(t)
	down := &scripted{name: "cloud", err: errors.New("no network")}
	cfg.Sources = []Source{down}
	s := open(t, cfg)
	expect(t, "after", walk(t, s, "a:"+hidden), "a:"+hidden)
	c, err := s.Current(t.Context(), repo(t, "k.example/app"))
	if err != nil || shown(t, c.Auth) != ":"+hidden || c.Name != "captured" {
		t.Errorf("captured: %v, %v", c, err)
	}
	if down.times() != 0 {
		t.Errorf("the source was asked %d times", down.times())
	}
	for _, path := range []string{cfg.Path, cfg.Path + ".key"} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if leaks(string(content)) || bytes.Contains(content, []byte("example")) {
			t.Errorf("%s can be read", path)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(cfg.Path))
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// A lease whose source is not configured any more still works, and ends.
func TestRestartWithoutSource(t *testing.T) {
	cfg := filled(t)
	s := open(t, cfg)
	expect(t, "without its source", walk(t, s, "a:"+hidden), "a:"+hidden)
	s.mu.Lock()
	l := s.repository(repo(t, app)).lease
	l.renewAt, l.expires = time.Now().Add(-time.Minute), time.Now().Add(-time.Second)
	s.mu.Unlock()
	expect(t, "past its end", walk(t, s, ":"), ":")
}

// What a file must not be kept of is not in it.
func TestEphemeralIsNotKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "credentials")
	s := open(t, Config{Path: path, Sources: []Source{&scripted{
		name: "directory", answers: []Answer{{Secret: basic(t, "a", "1"), Ephemeral: true}},
	}}})
	expect(t, "used", walk(t, s, "a:1"), "a:1")
	if err := s.Save(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Status{}, open(t, Config{Path: path}).Status()); diff != "" {
		t.Error(diff)
	}
}

// A sealed file that cannot be used is logged, and the store begins empty and works.
func TestSealedFileUnusable(t *testing.T) {
	edit := func(suffix string, change func([]byte) []byte) func(string) error {
		return func(path string) error {
			data, err := os.ReadFile(path + suffix)
			if err != nil {
				return err
			}
			return os.WriteFile(path+suffix, change(data), 0o600)
		}
	}
	flip := func(at int) func([]byte) []byte {
		return func(data []byte) []byte {
			data[(at+len(data))%len(data)] ^= 1
			return data
		}
	}
	cut := func(n int) func([]byte) []byte {
		return func(data []byte) []byte { return data[:n] }
	}
	for what, tt := range map[string]struct {
		damage func(path string) error
		text   string
	}{
		"first byte":          {edit("", flip(0)), "not a file of sealed credentials"},
		"the version":         {edit("", flip(len(magic)-2)), "another version"},
		"nonce":               {edit("", flip(len(magic)+3)), "another key, or damaged"},
		"content":             {edit("", flip(len(magic)+60)), "another key, or damaged"},
		"last byte":           {edit("", flip(-1)), "another key, or damaged"},
		"truncated":           {edit("", cut(len(magic)+50)), "another key, or damaged"},
		"only a head":         {edit("", cut(len(magic))), "another key, or damaged"},
		"empty":               {edit("", cut(0)), "not a file of sealed credentials"},
		"other key":           {edit(".key", flip(5)), "another key, or damaged"},
		"short key":           {edit(".key", cut(7)), "key of 7 bytes"},
		"no key":              {func(path string) error { return os.Remove(path + ".key") }, "no such file"},
		"key for all to read": {func(path string) error { return os.Chmod(path+".key", 0o644) }, "others could read it"},
		"a directory":         {func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, "is a directory"},
	} {
		t.Run(what, func(t *testing.T) {
			cfg := filled(t)
			if err := tt.damage(cfg.Path); err != nil {
				t.Fatal(err)
			}
			log := &journal{}
			cfg.Logger = log.logger()
			s := open(t, cfg)
			if len(s.Status()) != 0 {
				t.Errorf("begins with %v", s.Status())
			}
			for _, part := range []string{"WARN", "starting without the stored credentials", tt.text, cfg.Path} {
				if !strings.Contains(log.String(), part) {
					t.Errorf("the log does not say %q: %s", part, log)
				}
			}
			if leaks(log.String()) {
				t.Errorf("the log tells: %s", log)
			}
			if err := s.Capture(repo(t, app), authn.AuthConfig{Username: "k", Password: "1"}); err != nil {
				t.Fatal(err)
			}
			err := s.Save()
			if what == "a directory" {
				if err == nil {
					t.Error("saved over a directory")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "the next time", walk(t, open(t, Config{Path: cfg.Path}), "k:1"), "k:1")
		})
	}
}

// Run writes soon after a change, once for many, and again when it could not.
func TestRunSaves(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		log := &journal{}
		blocked := filepath.Join(dir, "blocked")
		write(t, blocked, 0o600, "a file in place of a directory")
		s := open(t, Config{Path: filepath.Join(blocked, "credentials"), Logger: log.logger()})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		if err := s.Capture(repo(t, app), authn.AuthConfig{Username: "k", Password: "1"}); err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Minute)
		if n := strings.Count(log.String(), "will be lost"); n != 1 {
			t.Errorf("logged %d times: %s", n, log)
		}
		if err := os.Remove(blocked); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * renewPause)
		expect(t, "saved", walk(t, open(t, s.cfg), "k:1"), "k:1")
		if err := s.Capture(repo(t, app), authn.AuthConfig{Username: "k", Password: "2"}); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * saveDelay)
		expect(t, "saved again", walk(t, open(t, s.cfg), "k:2"), "k:2")
		if err := s.Capture(repo(t, app), authn.AuthConfig{Username: "k", Password: "3"}); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		expect(t, "saved at the end", walk(t, open(t, s.cfg), "k:3"), "k:3")
	})
}
