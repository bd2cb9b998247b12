package trust_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/signature/signaturetest"
	"github.com/brisk-project/brisk/node/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func repository(t *testing.T, s string) name.Repository {
	t.Helper()
	repo, err := name.NewRepository(s)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func TestFirstMatchingRuleCounts(t *testing.T) {
	release, team := signaturetest.NewPair(t), signaturetest.NewPair(t)
	inline, err := os.ReadFile(team.Public)
	if err != nil {
		t.Fatal(err)
	}
	p := trust.New(t.Context(), trust.Config{Rules: []trust.Rule{
		{Repositories: []string{"registry.example.com/prod/open"}},
		{Repositories: []string{"registry.example.com/prod/**", "docker.io/library/*"}, Signed: true, Keys: []string{release.Public}},
		{Repositories: []string{"*.example.com/team-*/app", "**/signed"}, Signed: true, Keys: []string{release.Public, string(inline)}},
		{Repositories: []string{"localhost:*/none"}, Signed: true, Keys: []string{filepath.Join(t.TempDir(), "missing")}},
	}})
	for repo, want := range map[string]int{
		"registry.example.com/prod/open": -1, "registry.example.com/prod/a": 1, "registry.example.com/prod/a/b": 1,
		"registry.example.com/production": -1, "nginx": 1, "bitnami/nginx": -1,
		"eu.example.com/team-1/app": 2, "eu.example.com/team-1/x/app": -1, "quay.io/a/b/signed": 2, "quay.io/signed": 2,
		"localhost:5000/none": 0, "localhost:5000/other": -1,
	} {
		keys, required := p.Keys(repository(t, repo))
		if required != (want >= 0) || required && len(keys) != want {
			t.Errorf("%s: required %t, %d keys; want %d", repo, required, len(keys), want)
		}
	}
}

// Keys are added and removed while the node runs. A file that cannot be read trusts nothing.
func TestKeysAreReadAgain(t *testing.T) {
	old, next := signaturetest.NewPair(t), signaturetest.NewPair(t)
	file := filepath.Join(t.TempDir(), "keys.pem")
	p := trust.New(t.Context(), trust.Config{
		Rules: []trust.Rule{{Repositories: []string{"**"}, Signed: true, Keys: []string{file}}}, Interval: 5 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	changed, ended := make(chan struct{}, 16), make(chan error, 1)
	go func() { ended <- p.Run(ctx, func() { changed <- struct{}{} }) }()
	first, err := os.ReadFile(old.Public)
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(next.Public)
	if err != nil {
		t.Fatal(err)
	}
	repo := repository(t, "registry.example.com/app")
	require := func(what string, want int) {
		t.Helper()
		if keys, required := p.Keys(repo); !required || len(keys) != want {
			t.Errorf("%s: required %t, %d keys", what, required, len(keys))
		}
	}
	require("without a file", 0)
	for _, step := range []struct {
		what    string
		content []byte
		keys    int
	}{{"one", first, 1}, {"both", append(append([]byte{}, first...), second...), 2}, {"damaged", first[:40], 0}, {"the next", second, 1}} {
		path := filepath.Join(filepath.Dir(file), "new")
		signaturetest.Write(t, path, step.content)
		if err := os.Rename(path, file); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: not read again", step.what)
		}
		require(step.what, step.keys)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	<-changed
	require("removed", 0)
	cancel()
	if err := <-ended; err != nil || len(changed) != 0 {
		t.Errorf("%v, and %d changes that are none", err, len(changed))
	}
}

func TestCheckPattern(t *testing.T) {
	for pattern, valid := range map[string]bool{
		"**": true, "registry.example.com/*/app": true, "a/[b-d]": true, "": false, "a//b": false, "a/[": false,
		"a**": false, "**/**/**/a": false, "/a": false,
	} {
		if err := trust.CheckPattern(pattern); (err == nil) != valid {
			t.Errorf("%q: %v", pattern, err)
		}
	}
}
