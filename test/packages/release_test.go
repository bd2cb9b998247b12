package packages_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/test/require"
)

// envRelease is the environment variable with a command that makes a release in the directory
// which is its last argument.
const envRelease = "BRISK_TEST_RELEASE"

// TestRelease makes a release twice and compares the bytes, looks at what is in it, and
// installs "kubectl brisk" with krew for all platforms.
func TestRelease(t *testing.T) {
	command := strings.Fields(os.Getenv(envRelease))
	if len(command) == 0 {
		t.Skip(envRelease + ` does not say how a release is made; "make test-release" does`)
	}
	release := func() string {
		dir := t.TempDir()
		out, err := exec.CommandContext(t.Context(), command[0], append(command[1:], "RELEASE="+dir)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", command, err, out)
		}
		return dir
	}
	first, second := release(), release()
	if diff := cmp.Diff(sums(t, first), sums(t, second)); diff != "" {
		t.Errorf("made again the release differs: %s", diff)
	}
	requireSums(t, first)
	requireBills(t, first)
	requireArchives(t, first)
	requireKrew(t, first)
}

// sums returns the checksums of all files below a directory.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, path := range files(t, dir) {
		file, err := os.Open(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, file); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		found[strings.TrimPrefix(path, "/")] = hex.EncodeToString(sum.Sum(nil))
	}
	return found
}

// requireSums fails unless SHA256SUMS is that of all that is published.
func requireSums(t *testing.T, dir string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[string]string)
	for line := range strings.Lines(string(content)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		said[name] = sum
	}
	want := sums(t, dir)
	delete(want, "SHA256SUMS")
	delete(want, "krew/brisk.yaml")
	if diff := cmp.Diff(want, said); diff != "" || len(said) < 10 {
		t.Errorf("SHA256SUMS: %s\n%s", diff, content)
	}
}

// requireBills fails unless there is an SBOM of every program, with its modules.
func requireBills(t *testing.T, dir string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.cdx.json"))
	if err != nil || len(paths) != 10 { // four programs on two platforms of linux, and one on two of darwin
		t.Errorf("SBOMs: %q, %v", paths, err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var bill struct {
			BOMFormat string `json:"bomFormat"`
			Metadata  struct {
				Component struct {
					Version string `json:"version"`
					PURL    string `json:"purl"`
				} `json:"component"`
			} `json:"metadata"`
			Components []struct {
				Name string `json:"name"`
			} `json:"components"`
		}
		if err := json.Unmarshal(content, &bill); err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(strings.TrimSuffix(filepath.Base(path), ".cdx.json"), "_")
		about := bill.Metadata.Component
		if bill.BOMFormat != "CycloneDX" || about.Version != "v"+parts[1] ||
			!strings.Contains(about.PURL, "goos="+parts[2]+"&goarch="+parts[3]) || !strings.HasSuffix(about.PURL, "#cmd/"+parts[0]) {
			t.Errorf("%s is about %+v", path, about)
		}
		var names []string
		for _, component := range bill.Components {
			names = append(names, component.Name)
		}
		for _, name := range []string{"std", "golang.org/x/sys"} {
			if !slices.Contains(names, name) {
				t.Errorf("%s does not have %s among %q", path, name, names)
			}
		}
	}
}

// requireArchives fails unless the archives hold programs for their platforms.
func requireArchives(t *testing.T, dir string) {
	t.Helper()
	// How programs begin.
	magic := map[string]string{"linux": "\x7fELF", "darwin": "\xcf\xfa\xed\xfe"}
	for name, programs := range map[string][]string{
		"brisk_*_linux_amd64": {"brisk", "brisk-keeper", "brisk-node"}, "brisk_*_linux_arm64": {"brisk", "brisk-keeper", "brisk-node"},
		"kubectl-brisk_*_linux_amd64": {"kubectl-brisk"}, "kubectl-brisk_*_linux_arm64": {"kubectl-brisk"},
		"kubectl-brisk_*_darwin_amd64": {"kubectl-brisk"}, "kubectl-brisk_*_darwin_arm64": {"kubectl-brisk"},
	} {
		paths, err := filepath.Glob(filepath.Join(dir, name+".tar.gz"))
		if err != nil || len(paths) != 1 {
			t.Fatalf("%s: %q, %v", name, paths, err)
		}
		var found []string
		licence := false
		for header, content := range entries(t, paths[0]) {
			licence = licence || filepath.Base(header.Name) == "LICENSE"
			if strings.HasPrefix(content, magic[strings.Split(name, "_")[2]]) {
				found = append(found, filepath.Base(header.Name))
				if header.Mode != 0o755 || header.Uid != 0 {
					t.Errorf("%s in %s has %o and belongs to %d", header.Name, name, header.Mode, header.Uid)
				}
			}
		}
		slices.Sort(found)
		if !slices.Equal(found, programs) || !licence {
			t.Errorf("%s holds the programs %q, a licence: %t", name, found, licence)
		}
	}
}

// entries returns the files of an archive, with how they begin.
func entries(t *testing.T, path string) map[*tar.Header]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // only read
	inflated, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[*tar.Header]string)
	for archive := tar.NewReader(inflated); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		start := make([]byte, 4)
		n, err := io.ReadFull(archive, start)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		found[header] = string(start[:n])
	}
}

// requireKrew fails unless krew takes the manifest and installs the archives that it names,
// and not others.
func requireKrew(t *testing.T, dir string) {
	t.Helper()
	krew, validate := require.Tool(t, "krew"), require.Tool(t, "validate-krew-manifest")
	original, err := os.ReadFile(filepath.Join(dir, "krew/brisk.yaml"))
	if err != nil || strings.Count(string(original), "uri: https://github.com/") != 4 {
		t.Errorf("the manifest: %v\n%s", err, original)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	run(t, "../../deploy/packages/krew.sh", dir, server.URL)
	manifest := filepath.Join(dir, "krew/brisk.yaml")

	// What it starts is "kubectl krew install".
	programs := t.TempDir()
	if err := os.WriteFile(filepath.Join(programs, "kubectl"), []byte("#!/bin/sh\nshift\nexec "+krew+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	check := func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, validate, "-manifest", manifest)
		cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := check(); err != nil || !strings.Contains(out, "all 4 spec.platforms installed fine") {
		t.Errorf("the manifest is not valid: %v\n%s", err, out)
	}
	archives, err := filepath.Glob(filepath.Join(dir, "kubectl-brisk_*_linux_arm64.tar.gz"))
	if err != nil || len(archives) != 1 {
		t.Fatalf("%q, %v", archives, err)
	}
	if err := os.WriteFile(archives[0], []byte("another file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := check(); err == nil || !strings.Contains(out, "checksum") {
		t.Errorf("krew installs another archive: %v\n%s", err, out)
	}
}
