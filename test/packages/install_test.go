package packages_test

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/test/require"
)

// envMirror may say where Debian comes from, instead of debootstrap's own mirror.
const envMirror = "BRISK_TEST_DEBIAN_MIRROR"

// debian makes a root with a fresh Debian, and returns what runs a command in it.
func debian(t *testing.T) (string, func(args ...string) (string, error)) {
	t.Helper()
	require.Root(t)
	root := t.TempDir()
	// Its mounts end with the namespace.
	args := []string{
		"--mount", "--propagation", "private", require.Tool(t, "debootstrap"),
		"--variant=minbase", "--include=systemd,man-db,zsh,fish", "stable", root,
	}
	if mirror := os.Getenv(envMirror); mirror != "" {
		args = append(args, mirror)
	}
	run(t, "unshare", args...)
	return root, func(args ...string) (string, error) {
		return try(t, "unshare", slices.Concat([]string{
			"--mount", "--pid", "--fork", "--mount-proc=" + root + "/proc",
			"chroot", root, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
		}, args)...)
	}
}

// TestDebian installs the packages in a fresh Debian, uses them, and removes them.
func TestDebian(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads a Debian")
	}
	found := packages(t, ".deb")
	root, in := debian(t)
	must := func(args ...string) string {
		t.Helper()
		out, err := in(args...)
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return out
	}
	before := files(t, filepath.Join(root, "etc"))
	for _, name := range []string{"brisk", "brisk-node"} {
		path := found[[2]string{name, runtime.GOARCH}]
		run(t, "cp", path, filepath.Join(root, name+".deb"))
		must("dpkg", "--install", "/"+name+".deb")
	}

	for _, program := range []string{"brisk", "kubectl-brisk", "brisk-node", "brisk-keeper"} {
		if out := must(program, "--version"); !strings.Contains(out, program+" v") {
			t.Errorf("%s --version prints %q", program, out)
		}
		if out := must("man", "--warnings", program); !strings.Contains(out, program) || strings.Contains(out, "warning:") {
			t.Errorf("man %s prints\n%s", program, out)
		}
	}
	must("man", "--where", "kubectl-brisk-nodes", "brisk-node-install")
	if out := must("brisk-node", "config"); !strings.Contains(out, "/var/lib/brisk") {
		t.Errorf("the configuration is\n%s", out)
	}
	if out := must("kubectl_complete-brisk", "nod"); !strings.HasPrefix(out, "nodes\t") {
		t.Errorf("kubectl is offered %q", out)
	}
	for _, program := range []string{"brisk", "kubectl-brisk", "brisk-node"} {
		must("bash", "-ec", ". /usr/share/bash-completion/completions/"+program+"; complete -p "+program)
		must("zsh", "-ec", "autoload -Uz compinit; compinit -u; [[ $_comps["+program+"] = _"+program+" ]]; autoload +X _"+program)
		if out := must("fish", "--command", "complete --do-complete '"+program+" vers'"); !strings.Contains(out, "version\t") {
			t.Errorf("fish offers %q for %s", out, program)
		}
	}
	if out, err := in("systemd-analyze", "verify", "--man=no", "brisk-node.service", "brisk-keeper.service"); err != nil || strings.Contains(out, "brisk") {
		t.Errorf("the units: %v\n%s", err, out)
	}

	requireRefusal(t, root, in)
	must("dpkg", "--purge", "brisk", "brisk-node")
	for _, name := range []string{"brisk", "brisk-node"} {
		if err := os.Remove(filepath.Join(root, name+".deb")); err != nil {
			t.Fatal(err)
		}
	}
	// man keeps the pages that it has shown.
	if out := must("find", "/", "-xdev", "-name", "*brisk*", "-not", "-path", "/proc/*", "-not", "-path", "/var/cache/man/*"); strings.TrimSpace(out) != "/var/lib/brisk" {
		t.Errorf("left behind:\n%s", out)
	}
	if after := files(t, filepath.Join(root, "etc")); !slices.Equal(before, after) {
		t.Errorf("/etc had %q, and now has %q", before, after)
	}
}

// requireRefusal fails unless a package is not removed while containerd uses it, but
// upgraded, and leaves what the node has.
func requireRefusal(t *testing.T, root string, in func(...string) (string, error)) {
	t.Helper()
	unit := filepath.Join(root, "etc/systemd/system/brisk-node.service")
	data := filepath.Join(root, "var/lib/brisk")
	if err := os.WriteFile(unit, []byte("[Service]\nExecStart=/usr/bin/brisk-node run --config /etc/brisk/node.yaml\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := in("dpkg", "--remove", "brisk-node"); err == nil || !strings.Contains(out, "brisk-node uninstall") {
		t.Errorf("removed while containerd uses it: %v\n%s", err, out)
	}
	settings := filepath.Join(root, "etc/brisk/node.yaml")
	changed := "apiVersion: brisk.dev/v1alpha1\nkind: NodeConfig\ncache: {size: 1Gi}\n"
	if err := os.WriteFile(settings, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := in("dpkg", "--install", "/brisk-node.deb"); err != nil {
		t.Errorf("not upgraded: %v\n%s", err, out)
	}
	if now, err := os.ReadFile(settings); err != nil || string(now) != changed {
		t.Errorf("the configuration after an upgrade: %q, %v", now, err)
	}
	if err := os.Remove(unit); err != nil {
		t.Fatal(err)
	}
}

// TestRPM installs the packages with rpm, runs them, and removes them.
func TestRPM(t *testing.T) {
	require.Root(t)
	rpm := require.Tool(t, "rpm")
	found := packages(t, ".rpm")
	root := t.TempDir()
	for _, name := range []string{"brisk", "brisk-node"} {
		// Without a shell in the root its scripts cannot run; those of the deb, which are the same, do.
		run(t, rpm, "--root", root, "--install", "--nodeps", "--noscripts", found[[2]string{name, runtime.GOARCH}])
	}
	if out := run(t, rpm, "--root", root, "--query", "--all"); strings.Count(out, "brisk") < 2 {
		t.Errorf("installed are %q", out)
	}
	for _, program := range []string{"brisk", "kubectl-brisk", "brisk-node", "brisk-keeper"} {
		if out := run(t, "chroot", root, "/usr/bin/"+program, "--version"); !strings.Contains(out, program+" v") {
			t.Errorf("%s --version prints %q", program, out)
		}
	}
	if out := run(t, rpm, "--root", root, "--query", "--configfiles", "brisk-node"); out != "/etc/brisk/node.yaml\n" {
		t.Errorf("its configuration files are %q", out)
	}
	run(t, rpm, "--root", root, "--verify", "--nodeps", "brisk", "brisk-node")
	run(t, rpm, "--root", root, "--erase", "--noscripts", "brisk", "brisk-node")
	for _, path := range files(t, root) {
		if strings.Contains(path, "brisk") {
			t.Errorf("left behind: %s", path)
		}
	}
}
