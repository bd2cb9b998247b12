package credential

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// found is what a source has for a repository.
func found(t *testing.T, s Source, r string) []string {
	t.Helper()
	q := Query{Repository: repo(t, r)}
	q.Image = imageName(q.Repository)
	answers, err := s.Lookup(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, a := range answers {
		all = append(all, shown(t, a.Secret))
	}
	return all
}

// mountSecret writes a file the way Kubernetes mounts a Secret: the file is a link
// through a link that is exchanged in one step.
func mountSecret(t *testing.T, dir, version, content string) {
	t.Helper()
	write(t, filepath.Join(dir, "..data_"+version, ".dockerconfigjson"), 0o644, content)
	if err := os.Symlink("..data_"+version, filepath.Join(dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, ".dockerconfigjson")
	if err := os.Symlink("..data/.dockerconfigjson", link); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	log := &journal{}
	source := NewDirectory(dir, log.logger())
	if got := found(t, NewDirectory(filepath.Join(dir, "missing"), nil), "r.example/app"); got != nil {
		t.Errorf("a directory that does not exist: %v", got)
	}
	mountSecret(t, dir, "1", dockerJSON(t, "r.example", "u", "one"))
	mountSecret(t, filepath.Join(dir, "team-b"), "1", dockerJSON(t, "b.example", "u", "b"))
	write(t, filepath.Join(dir, "team-a.json"), 0o644, dockerJSON(t, "r.example/team", "u", "a"))
	write(t, filepath.Join(dir, "old.dockercfg"), 0o644, `{"old.example":{"auth":"dTpvbGQ=","email":"x"},"junk":5}`)
	write(t, filepath.Join(dir, "broken"), 0o644, `{"auths":"`+hidden)
	write(t, filepath.Join(dir, "half"), 0o644, `{"auths":{"r.example":{"auth":"`+hidden+`?"},"half.example":{"username":"u","password":"h"}}}`)
	write(t, filepath.Join(dir, "long"), 0o644, strings.Repeat(" ", maxDockerConfig+1))
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	check := func(r string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, found(t, source, r)); diff != "" {
			t.Errorf("%s: %s", r, diff)
		}
	}
	check("r.example/app", "u:one")
	check("r.example/team/app", "u:one", "u:a")
	check("b.example/app", "u:b")
	check("old.example/app", "u:old")
	check("half.example/app", "u:h")
	check("other.example/app")

	mountSecret(t, dir, "2", dockerJSON(t, "r.example", "u", "two"))
	check("r.example/app", "u:two")
	write(t, filepath.Join(dir, "team-a.json"), 0o644, dockerJSON(t, "r.example/team", "u", "A")) // of the same length
	check("r.example/team/app", "u:two", "u:A")
	if err := os.RemoveAll(filepath.Join(dir, "team-b")); err != nil {
		t.Fatal(err)
	}
	check("b.example/app")

	if leaks(log.String()) {
		t.Errorf("the log tells: %s", log)
	}
	for _, file := range []string{"broken", "half", "long"} {
		if n := strings.Count(log.String(), file+`"`); n == 0 {
			t.Errorf("%s is not logged: %s", file, log)
		}
	}
	for i := range maxFiles + 1 {
		write(t, filepath.Join(dir, fmt.Sprintf("f%d", i)), 0o600, "{}")
	}
	q := Query{Repository: repo(t, "r.example/app"), Image: "r.example/app"}
	if _, err := source.Lookup(t.Context(), q); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too many files: %v", err)
	}
}

// A file that does not change is read once, and complained about once.
func TestDirectoryReadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, log := t.TempDir(), &journal{}
		source := NewDirectory(dir, log.logger())
		path := filepath.Join(dir, "broken")
		write(t, path, 0o600, "{")
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Minute)); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			found(t, source, "r.example/app")
		}
		if n := strings.Count(log.String(), "ignoring"); n != 1 {
			t.Errorf("logged %d times: %s", n, log)
		}
	})
}
