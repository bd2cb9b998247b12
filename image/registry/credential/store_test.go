package credential

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/image/registry"
)

// scripted is a source that a test says the answers of.
type scripted struct {
	name string

	mu      sync.Mutex
	answers []Answer
	err     error
	hang    bool
	asked   int
}

func (s *scripted) Name() string { return s.name }

func (s *scripted) Lookup(ctx context.Context, _ Query) ([]Answer, error) {
	s.mu.Lock()
	s.asked++
	hang, answers, err := s.hang, s.answers, s.err
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return answers, err
}

func (s *scripted) set(err error, answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers, s.err = answers, err
}

func (s *scripted) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

const app = "r.example/app"

// walk goes through what a store offers, like a registry that accepts one password.
func walk(t *testing.T, s *Store, accepts string) []string {
	t.Helper()
	r := repo(t, app)
	var tried []string
	c, err := s.Current(t.Context(), r)
	for range 20 {
		if err != nil {
			if !errors.Is(err, registry.ErrNoCredential) {
				t.Errorf("error %v", err)
			}
			return append(tried, "none left")
		}
		tried = append(tried, shown(t, c.Auth))
		if shown(t, c.Auth) == accepts {
			s.Accepted(r, c)
			return tried
		}
		c, err = s.Next(t.Context(), r, c)
	}
	t.Error("it does not end")
	return tried
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := &scripted{name: "first", answers: []Answer{{Secret: basic(t, "a", "1")}, {Secret: basic(t, "a", "2")}}}
		empty := &scripted{name: "empty"}
		broken := &scripted{name: "broken", err: errors.New("on fire")}
		last := &scripted{name: "last", answers: []Answer{{Secret: basic(t, "b", "1")}}}
		s := open(t, Config{Sources: []Source{first, empty, broken, last}, Registerer: prometheus.NewRegistry()})
		expect(t, "all in turn", walk(t, s, "b:1"), "a:1", "a:2", "b:1")
		<-time.After(time.Minute)
		expect(t, "what worked", walk(t, s, "b:1"), "b:1")
		if n := first.times() + empty.times() + broken.times() + last.times(); n != 4 {
			t.Errorf("sources asked %d times, want once each", n)
		}
		if err := s.Capture(repo(t, app), authn.AuthConfig{Username: "k", Password: "1"}); err != nil {
			t.Fatal(err)
		}
		expect(t, "still what worked", walk(t, s, "b:1"), "b:1")
		expect(t, "then kubelet's", walk(t, s, "k:1"), "b:1", "k:1")
		expect(t, "kubelet's worked", walk(t, s, "k:1"), "k:1")
		<-time.After(time.Minute)
		expect(t, "nothing needed", walk(t, s, ":"), "k:1", "a:1", "a:2", "b:1", ":")
		expect(t, "nothing needed, known", walk(t, s, ":"), ":")
		<-time.After(anonymousFor + time.Second)
		expect(t, "and forgotten in time", walk(t, s, "a:2"), "a:1", "a:2")
	})
}

// Credentials that were refused are left alone for a moment, and the error says
// what was tried. A new one is tried at once.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := &scripted{name: "one", answers: []Answer{{Secret: basic(t, "a", hidden)}}}
		broken := &scripted{name: "broken", err: errors.New("on fire")}
		s := open(t, Config{Sources: []Source{one, broken}})
		expect(t, "all refused", walk(t, s, "x"), "a:"+hidden, ":", "none left")
		for range 10 {
			expect(t, "at once again", walk(t, s, "x"), "none left")
		}
		if n := one.times() + broken.times(); n > 4 {
			t.Errorf("sources asked %d times", n)
		}
		_, err := s.Current(t.Context(), repo(t, app))
		for _, part := range []string{"r.example/app", "refused were those of: none, one", "broken: on fire"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %v does not say %q", err, part)
			}
		}
		if leaks(err.Error()) {
			t.Errorf("error tells: %v", err)
		}
		<-time.After(defaultNegativeFor + defaultNegativeFor/4)
		one.set(nil, Answer{Secret: basic(t, "a", "new")})
		s.mu.Lock()
		s.repository(repo(t, app)).answers["one"].until = time.Time{}
		s.mu.Unlock()
		expect(t, "a new one", walk(t, s, "a:new"), "a:new")
		one.set(nil)
		<-time.After(time.Hour)
		expect(t, "taken away", walk(t, s, "x"), "a:new", ":", "none left")
		<-time.After(time.Hour)
		expect(t, "tried again, as a registry may err", walk(t, s, "x"), "a:new", ":", "none left")
	})
}

// A source that hangs holds up the first to ask, for as long as the patience is, and
// then nobody. What it finds in the end is used.
func TestHangingSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &scripted{name: "slow", hang: true}
		good := &scripted{name: "good", answers: []Answer{{Secret: basic(t, "a", "1")}}}
		s := open(t, Config{Sources: []Source{slow, good}})
		started := time.Now()
		expect(t, "past it", walk(t, s, "a:1"), "a:1")
		if d := time.Since(started); d != defaultPatience {
			t.Errorf("held up for %s", d)
		}
		started = time.Now()
		for range 5 {
			expect(t, "at once", walk(t, s, "a:1"), "a:1")
		}
		if d := time.Since(started); d != 0 || slow.times() != 1 {
			t.Errorf("held up for %s again, asked %d times", d, slow.times())
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Current(ctx, repo(t, "r.example/other")); !errors.Is(err, context.Canceled) && err != nil {
			t.Errorf("error %v", err)
		}
		<-time.After(2 * defaultLookupTimeout) // the lookups end
	})
}

// However many wait for a credential, a source is asked once.
func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &scripted{name: "slow", hang: true}
		s := open(t, Config{Sources: []Source{slow}, SlowAfter: time.Hour})
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				c, err := s.Current(t.Context(), repo(t, app))
				if err != nil || shown(t, c.Auth) != ":" {
					t.Errorf("%v %v", c, err)
				}
			})
		}
		group.Wait()
		if slow.times() != 1 {
			t.Errorf("asked %d times", slow.times())
		}
		for i := range 3 * lookupsPerSource {
			group.Go(func() {
				if _, err := s.Current(t.Context(), repo(t, fmt.Sprintf("r.example/app%d", i))); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if n := slow.times() - 1; n != lookupsPerSource {
			t.Errorf("%d lookups at a time", n)
		}
		group.Wait()
	})
}

// A lease is renewed in time, whether or not anybody reads, and used past its end if
// its source is not there.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &scripted{name: "cloud"}
		give := func(password string) {
			source.set(nil, Answer{Secret: basic(t, "a", password), Expires: time.Now().Add(12 * time.Hour)})
		}
		give("1")
		s := open(t, Config{Sources: []Source{source}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		expect(t, "first", walk(t, s, "a:1"), "a:1")
		for i := 2; i <= 6; i++ {
			give(strconv.Itoa(i))
			<-time.After(10 * time.Hour)
			expect(t, "renewed", walk(t, s, fmt.Sprintf("a:%d", i)), fmt.Sprintf("a:%d", i))
		}
		if n := source.times(); n > 25 {
			t.Errorf("asked %d times", n)
		}
		source.set(errors.New("on fire"))
		before := source.times()
		<-time.After(14 * time.Hour)
		expect(t, "past its end", walk(t, s, "a:6"), "a:6")
		if n := source.times() - before; n < 10 || n > 15*60 {
			t.Errorf("asked %d times in 14 hours of failure", n)
		}
		give("7")
		<-time.After(2 * renewPause)
		expect(t, "back", walk(t, s, "a:7"), "a:7")
		give("8")
		s.mu.Lock()
		s.repository(repo(t, app)).lease.renewAt = time.Now()
		s.repository(repo(t, app)).answers["cloud"].until = time.Now()
		s.changed()
		s.mu.Unlock()
		<-time.After(time.Minute)
		source.set(errors.New("on fire"))
		<-time.After(time.Minute)
		expect(t, "the newer is no good", walk(t, s, "a:7"), "a:8", "a:7")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Without Run, a lease is renewed by who needs it.
func TestRenewalOnUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &scripted{name: "cloud", answers: []Answer{{Secret: basic(t, "a", "1"), Expires: time.Now().Add(time.Hour)}}}
		s := open(t, Config{Sources: []Source{source}})
		expect(t, "first", walk(t, s, "a:1"), "a:1")
		source.set(nil, Answer{Secret: basic(t, "a", "2"), Expires: time.Now().Add(2 * time.Hour)})
		<-time.After(20 * time.Minute)
		expect(t, "half its life", walk(t, s, "a:1"), "a:1")
		<-time.After(35 * time.Minute)
		expect(t, "at its end", walk(t, s, "a:2"), "a:2")
		source.set(errors.New("on fire"))
		<-time.After(3 * time.Hour)
		expect(t, "past it", walk(t, s, "a:2"), "a:2")
		expect(t, "and no good", walk(t, s, ":"), "a:2", "a:1", ":")
	})
}

func TestCapture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Config{})
		put := func(password string) {
			t.Helper()
			if err := s.Capture(repo(t, app), authn.AuthConfig{Username: "k", Password: password}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 6 {
			put(strconv.Itoa(i))
		}
		put("5")
		expect(t, "the newest first", walk(t, s, ":"), "k:5", "k:4", "k:3", "k:2", ":")
		put("3")
		expect(t, "kubelet believes in it", walk(t, s, "k:3"), ":", "k:3")
		if diff := cmp.Diff([]Status{{Repository: app, Source: "captured", Captured: 1}}, s.Status()); diff != "" {
			t.Errorf("what was refused is not dropped: %s", diff)
		}
		if err := s.Capture(repo(t, app), authn.AuthConfig{Auth: hidden + "?"}); err == nil || leaks(err.Error()) {
			t.Errorf("error %v", err)
		}
		if err := s.Capture(repo(t, "r.example/public"), authn.AuthConfig{}); err != nil || len(s.Status()) != 1 {
			t.Errorf("nothing captured: %v, %v", err, s.Status())
		}
		for i := range maxRepositories + 100 {
			if err := s.Capture(repo(t, fmt.Sprintf("r.example/app%d", i)), authn.AuthConfig{Username: "k"}); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(s.Status()); n != maxRepositories {
			t.Errorf("%d repositories", n)
		}
	})
}

func TestConfig(t *testing.T) {
	one := &scripted{name: "one"}
	for what, cfg := range map[string]Config{
		"same name twice": {Sources: []Source{one, one}},
		"reserved name":   {Sources: []Source{&scripted{name: "captured"}}},
		"no name":         {Sources: []Source{&scripted{}}},
		"negative":        {SlowAfter: -1},
	} {
		if _, err := Open(cfg); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	s := open(t, Config{})
	s.Accepted(repo(t, app), registry.Credential{Auth: authn.Anonymous})
	if _, err := s.Next(t.Context(), repo(t, app), registry.Credential{Auth: authn.Anonymous}); !errors.Is(err, registry.ErrNoCredential) {
		t.Errorf("somebody else's credential: %v", err)
	}
}

// All at once, for the race detector.
func TestConcurrency(t *testing.T) {
	dir := t.TempDir()
	one := &scripted{name: "one", answers: []Answer{{Secret: basic(t, "a", "1"), Expires: time.Now().Add(time.Millisecond)}}}
	s := open(t, Config{Sources: []Source{one, NewDirectory(dir, nil)}, Path: dir + "/sealed"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			r := repo(t, fmt.Sprintf("r.example/app%d", i%3))
			for j := range 50 {
				c, err := s.Current(t.Context(), r)
				if err == nil && j%3 == 0 {
					c, err = s.Next(t.Context(), r, c)
				}
				if err == nil {
					s.Accepted(r, c)
				}
				if err := s.Capture(r, authn.AuthConfig{Username: "k", Password: fmt.Sprint(i, j)}); err != nil {
					t.Error(err)
				}
				if j%10 == 0 {
					if err := s.Save(); err != nil {
						t.Error(err)
					}
				}
				s.Status()
			}
		})
	}
	group.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if again := open(t, Config{Path: dir + "/sealed"}); len(again.Status()) != 3 {
		t.Errorf("kept: %v", again.Status())
	}
}
