// Package packages_test checks the packages that "make packages" has made: what is in them,
// and that they can be installed, used, upgraded and removed.
package packages_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/test/require"
)

// envPackages is the environment variable that says where the packages are.
const envPackages = "BRISK_TEST_PACKAGES"

// patience is how long a command may take on a busy machine.
const patience = 5 * time.Minute

// packages returns the packages with a suffix, by name and architecture of Go.
func packages(t *testing.T, suffix string) map[[2]string]string {
	t.Helper()
	dir := os.Getenv(envPackages)
	if dir == "" {
		t.Skip(envPackages + ` does not say where the packages are; "make test-packages" does`)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no packages in %s: %v", dir, err)
	}
	found := make(map[[2]string]string)
	for _, path := range paths {
		name, arch := "brisk", "amd64"
		if strings.HasPrefix(filepath.Base(path), "brisk-node") {
			name = "brisk-node"
		}
		if strings.Contains(path, "arm64") || strings.Contains(path, "aarch64") {
			arch = "arm64"
		}
		found[[2]string{name, arch}] = path
	}
	return found
}

// run returns what a command prints.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(t, name, args...)
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

func try(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// unpack returns a directory with what is in a package.
func unpack(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	if filepath.Ext(path) == ".deb" {
		run(t, require.Tool(t, "dpkg-deb"), "--extract", path, dir)
		return dir
	}
	// As root rpm would ask for the owner of each file, and for dependencies.
	run(t, require.Tool(t, "rpm"), "--root", dir, "--install", "--nodeps", "--noscripts", "--ignorearch", path)
	for _, database := range []string{"var", "usr/lib/sysimage", "root"} {
		if err := os.RemoveAll(filepath.Join(dir, database)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// files lists the files below a directory. Pages of subcommands are left out.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = append(found, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	main := regexp.MustCompile(`^(kubectl-)?brisk(-node|-keeper)?\.\d\.gz$`)
	return slices.DeleteFunc(found, func(path string) bool {
		return strings.Contains(path, "/man/") && !main.MatchString(filepath.Base(path))
	})
}

// wanted is what is to be in a package. SITE is where zsh looks for completions of vendors.
func wanted(name, site string) []string {
	list := `
/usr/bin/brisk
/usr/bin/kubectl-brisk
/usr/bin/kubectl_complete-brisk
/usr/share/bash-completion/completions/brisk
/usr/share/bash-completion/completions/kubectl-brisk
/usr/share/doc/brisk/changelog.gz
/usr/share/doc/brisk/copyright
/usr/share/fish/vendor_completions.d/brisk.fish
/usr/share/fish/vendor_completions.d/kubectl-brisk.fish
/usr/share/man/man1/brisk.1.gz
/usr/share/man/man1/kubectl-brisk.1.gz
/usr/share/zsh/SITE/_brisk
/usr/share/zsh/SITE/_kubectl-brisk`
	if name == "brisk-node" {
		list = `
/etc/brisk/node.yaml
/usr/bin/brisk-keeper
/usr/bin/brisk-node
/usr/lib/systemd/system/brisk-keeper.service
/usr/lib/systemd/system/brisk-node.service
/usr/share/bash-completion/completions/brisk-node
/usr/share/doc/brisk-node/changelog.gz
/usr/share/doc/brisk-node/copyright
/usr/share/fish/vendor_completions.d/brisk-node.fish
/usr/share/man/man8/brisk-keeper.8.gz
/usr/share/man/man8/brisk-node.8.gz
/usr/share/zsh/SITE/_brisk-node`
	}
	return strings.Fields(strings.ReplaceAll(list, "SITE", site))
}

func TestContents(t *testing.T) {
	for suffix, site := range map[string]string{".deb": "vendor-completions", ".rpm": "site-functions"} {
		found := packages(t, suffix)
		for key, path := range found {
			t.Run(filepath.Base(path), func(t *testing.T) {
				dir := unpack(t, path)
				if diff := cmp.Diff(wanted(key[0], site), files(t, dir)); diff != "" {
					t.Error(diff)
				}
				requirePrograms(t, dir, key[1])
				requirePages(t, dir)
			})
			if found[[2]string{"brisk", key[1]}] == "" || found[[2]string{"brisk-node", key[1]}] == "" {
				t.Errorf("for %s there is one package only", key[1])
			}
		}
	}
}

// requirePrograms fails unless the programs are for an architecture, and need no library.
func requirePrograms(t *testing.T, dir, arch string) {
	t.Helper()
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	paths, err := filepath.Glob(filepath.Join(dir, "usr/bin/*brisk*"))
	if err != nil || len(paths) < 2 {
		t.Fatalf("%q, %v", paths, err)
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s has the mode %v, %v", path, info.Mode(), err)
		}
		if filepath.Base(path) == "kubectl_complete-brisk" {
			continue // a script
		}
		program, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		libraries, err := program.ImportedLibraries()
		if program.Machine != machine || err != nil || len(libraries) > 0 {
			t.Errorf("%s is for %v and needs %q, %v", path, program.Machine, libraries, err)
		}
		if err := program.Close(); err != nil {
			t.Error(err)
		}
	}
}

// requirePages fails unless there are manual pages, compressed in the same way every time.
func requirePages(t *testing.T, dir string) {
	t.Helper()
	pages, err := filepath.Glob(filepath.Join(dir, "usr/share/man/man?/*.gz"))
	if err != nil || len(pages) < 2 {
		t.Fatalf("%q, %v", pages, err)
	}
	for _, path := range pages {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		reader, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		if _, err := text.ReadFrom(reader); err != nil || !reader.ModTime.IsZero() {
			t.Errorf("%s was compressed at %v, %v", path, reader.ModTime, err)
		}
		name := strings.TrimSuffix(filepath.Base(path), ".gz")
		if !strings.Contains(text.String(), "\n.SH NAME\n") {
			t.Errorf("%s is no manual page:\n%s", name, text.String())
		}
	}
}

// TestKeeperPage holds the page of brisk-keeper, which is written by hand, against its flags.
func TestKeeperPage(t *testing.T) {
	path := packages(t, ".deb")[[2]string{"brisk-node", runtime.GOARCH}]
	dir := unpack(t, path)
	help, err := try(t, filepath.Join(dir, "usr/bin/brisk-keeper"), "-help")
	if err != nil && !strings.Contains(help, "Usage") {
		t.Fatalf("%v\n%s", err, help)
	}
	page := run(t, "zcat", filepath.Join(dir, "usr/share/man/man8/brisk-keeper.8.gz"))
	flags := 0
	for line := range strings.Lines(help) {
		if flag, ok := strings.CutPrefix(line, "  -"); ok {
			flags++
			if name := strings.Fields(flag)[0]; !strings.Contains(page, `\-`+name) {
				t.Errorf("the page does not have -%s", name)
			}
		}
	}
	if flags < 4 || strings.Count(page, "\n.TP\n") != flags {
		t.Errorf("the program has %d flags:\n%s\nthe page is\n%s", flags, help, page)
	}
}
