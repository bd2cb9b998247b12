package chart

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadmeListsTestedVersions compares the table of the README with what is built.
func TestReadmeListsTestedVersions(t *testing.T) {
	const root = "../.."
	module := func(dir, path string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{with .Replace}}{{.Version}}{{else}}{{.Version}}{{end}}", path)
		cmd.Dir = filepath.Join(root, dir)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("version of %s in %s: %v", path, dir, err)
		}
		return strings.TrimPrefix(strings.TrimSpace(string(out)), "v")
	}
	script, err := os.ReadFile(filepath.Join(root, "test/tools/containerds.sh"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(script), "\nversions='")
	older, _, found := strings.Cut(after, "'")
	if !found {
		t.Fatal("the script names no versions of containerd")
	}
	content, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	kubernetes := module(".", "k8s.io/kubernetes")
	for _, row := range []string{
		"| Kubernetes, a whole cluster of three nodes | " + module("test/cluster/tools/kubernetes", "k8s.io/kubernetes") + " | CI | `make e2e` |",
		"| its API server, with scheduler, reports of agents, chart and `kubectl brisk` | " + kubernetes + " | CI | `make test` |",
		"| the same | " + module("test/controlplane/tools/kubernetes-1.36", "k8s.io/kubernetes") + " | nightly | `make test-kubernetes` |",
		"| containerd, everything | " + module(".", "github.com/containerd/containerd/v2") + " | CI | `make test` |",
		"| containerd, configured by `install`: pull, run, remove | " + strings.Join(strings.Fields(older), ", ") + " | CI | `make test-releases` |",
	} {
		if !strings.Contains(string(content), row+"\n") {
			t.Errorf("the README has no row\n%s", row)
		}
	}
}
