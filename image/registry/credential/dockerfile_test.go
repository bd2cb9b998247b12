package credential

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDockerConfigFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	source := NewDockerConfig(path)
	helper := "#!/bin/sh\ncat >/dev/null\necho '{\"ServerURL\":\"h.example\",\"Username\":\"u\",\"Secret\":\"helped\"}'\n"
	write(t, filepath.Join(dir, "docker-credential-brisktest"), 0o700, helper)
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	for _, c := range []struct {
		content, repo string
		want          []string
	}{
		{"", "r.example/app", nil}, // no file
		{dockerJSON(t, "r.example", "u", "one"), "r.example/app", []string{"u:one"}},
		{dockerJSON(t, "r.example", "u", "two"), "other.example/app", nil},
		{dockerJSON(t, "r.example/team", "u", "three"), "r.example/team", []string{"u:three"}},
		{dockerJSON(t, "https://index.docker.io/v1/", "u", "hub"), "library/app", []string{"u:hub"}},
		{`{"credHelpers":{"h.example":"brisktest"}}`, "h.example/app", []string{"u:helped"}},
	} {
		if c.content != "" {
			write(t, path, 0o600, c.content)
		}
		if diff := cmp.Diff(c.want, found(t, source, c.repo)); diff != "" {
			t.Errorf("%s: %s", c.repo, diff)
		}
		if c.content != "" {
			if err := CheckDockerConfig(path); err != nil {
				t.Error(err)
			}
		}
	}
	write(t, path, 0o600, hidden+"{")
	q := Query{Repository: repo(t, "r.example/app")}
	if _, err := source.Lookup(t.Context(), q); !errors.Is(err, errKeychain) || strings.Contains(err.Error(), hidden) {
		t.Errorf("broken: %v", err)
	}
	if err := CheckDockerConfig(path); err == nil || strings.Contains(err.Error(), hidden) {
		t.Errorf("broken: %v", err)
	}
}
