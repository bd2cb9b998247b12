package chroot_test

import (
	"bytes"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/internal/chroot"
	"github.com/brisk-project/brisk/test/require"
)

// TestMain plays the part of the binary that contains the container package.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == chroot.InitCommand {
		if err := chroot.Init(os.Args[2]); err != nil {
			log.Print(err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// newRoot makes a root filesystem whose only program is busybox.
func newRoot(t *testing.T) string {
	t.Helper()
	require.Root(t)
	busybox := require.Tool(t, "busybox")
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", busybox, filepath.Join(root, "bin/busybox")).CombinedOutput(); err != nil {
		t.Fatalf("copying busybox: %v: %s", err, out)
	}
	return root
}

func TestRunIsolates(t *testing.T) {
	root := newRoot(t)
	var stdout, stderr bytes.Buffer
	err := chroot.Run(t.Context(), chroot.Spec{
		Root: root,
		Args: []string{"busybox", "sh", "-c", "echo $$ $WHO; busybox pwd; busybox hostname; busybox touch /tmp/x; busybox ls /"},
		Env:  []string{"PATH=/bin", "WHO=a=b"},
		Dir:  "/bin", Temporary: true,
	}, &stdout, &stderr)
	if err != nil {
		t.Fatalf("Run: %v; stderr: %s", err, stderr.String())
	}
	got := strings.Fields(stdout.String())
	want := []string{"1", "a=b", "/bin", "brisk", "bin", "dev", "proc", "sys", "tmp"}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("container saw %q, want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(root, "tmp/x")); err == nil {
		t.Error("the container's /tmp is visible outside")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), root) {
		t.Error("the container's mounts are visible outside")
	}
}

func TestRunReportsFailure(t *testing.T) {
	root := newRoot(t)
	for _, test := range []struct {
		name string
		args []string
		want string
	}{
		{"exit status", []string{"busybox", "sh", "-c", "exit 3"}, "exit status 3"},
		{"no program", nil, "no program given"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := chroot.Run(t.Context(), chroot.Spec{Root: root, Args: test.args, Env: []string{"PATH=/bin"}}, nil, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Run = %v, want an error saying %q", err, test.want)
			}
		})
	}
}

func TestRunNamesMissingProgram(t *testing.T) {
	root := newRoot(t)
	var stderr bytes.Buffer
	err := chroot.Run(t.Context(), chroot.Spec{Root: root, Args: []string{"nosuch"}, Env: []string{"PATH=/bin"}}, nil, &stderr)
	if err == nil || !strings.Contains(stderr.String(), `"nosuch"`) {
		t.Errorf("Run = %v, stderr %q, want an error naming the program", err, stderr.String())
	}
}

// run runs a script of busybox and returns the words that it prints.
func run(t *testing.T, spec chroot.Spec, script string) string {
	t.Helper()
	if spec.Root == "" {
		spec.Root = newRoot(t)
	}
	spec.Args, spec.Env = []string{"busybox", "sh", "-c", script}, []string{"PATH=/bin"}
	var stdout, stderr bytes.Buffer
	if err := chroot.Run(t.Context(), spec, &stdout, &stderr); err != nil {
		t.Fatalf("Run: %v; stderr: %s", err, stderr.String())
	}
	return strings.Join(strings.Fields(stdout.String()), " ")
}

func TestRunConfines(t *testing.T) {
	for script, want := range map[string]string{
		"busybox mount -t tmpfs none /sys 2>/dev/null || echo refused":                                   "refused",
		"echo 1 2>/dev/null >/proc/sys/kernel/sysrq || echo refused":                                     "refused",
		"busybox mknod /sda b 8 0 && busybox chroot / busybox echo && busybox hostname x || echo cannot": "cannot",
		"busybox cat /proc/keys /proc/timer_list 2>/dev/null | busybox wc -c":                            "0",
		"busybox grep CapBnd /proc/self/status":                                                          "CapBnd: 00000000a80425fb",
		"busybox ls /dev":                                                                                "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
		"echo x >/dev/null; busybox head -c 4 /dev/zero | busybox wc -c":                                 "4",
	} {
		if got := run(t, chroot.Spec{}, script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
}

func TestUser(t *testing.T) {
	root := newRoot(t)
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"passwd": "root:x:0:0::/:\nweb:x:33:34::/:\n\nbroken\n", "group": "root:x:0:\nweb:x:34:\nlogs:x:50:adm,web\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const script = `echo $(busybox id -u) $(busybox id -g) $(busybox id -G); busybox grep CapEff /proc/self/status`
	for name, want := range map[string]string{
		"": "0 0 0 CapEff: 00000000a80425fb", "web": "33 34 34 50 CapEff: 0000000000000000", "33": "33 34 34 50 CapEff: 0000000000000000",
		"web:logs": "33 50 50 CapEff: 0000000000000000", "1000": "1000 0 0 CapEff: 0000000000000000", "1000:1001": "1000 1001 1001 CapEff: 0000000000000000",
	} {
		if got := run(t, chroot.Spec{Root: root, User: name}, script); got != want {
			t.Errorf("user %q: %q, want %q", name, got, want)
		}
	}
	var stderr bytes.Buffer
	for _, name := range []string{"nobody", "web:nobody"} {
		err := chroot.Run(t.Context(), chroot.Spec{Root: root, Args: []string{"busybox"}, Env: []string{"PATH=/bin"}, User: name}, nil, &stderr)
		if err == nil || !strings.Contains(stderr.String(), `"nobody"`) {
			t.Errorf("user %q: %v, %s", name, err, stderr.String())
		}
	}
}

func TestNetwork(t *testing.T) {
	const script = `busybox ls /sys/class/net | busybox wc -l; busybox ip addr show lo | busybox grep -c 'UP.*\|127.0.0.1'`
	if got := run(t, chroot.Spec{Isolated: true}, script); got != "1 2" {
		t.Errorf("an isolated network: %q", got)
	}
	root := newRoot(t)
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "hosts")
	if err := os.Symlink(outside, filepath.Join(root, "etc/hosts")); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, chroot.Spec{Root: root, Resolver: true}, "busybox cat /etc/hosts"); got != strings.Join(strings.Fields(string(want)), " ") {
		t.Errorf("/etc/hosts in the container: %q", got)
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a link of the image led out of it")
	}
}

// TestRunStaysInRoot runs a root whose mount points are links to directories outside.
func TestRunStaysInRoot(t *testing.T) {
	root, outside := newRoot(t), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "dev")); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	err := chroot.Run(t.Context(), chroot.Spec{Root: root, Args: []string{"busybox", "true"}, Env: []string{"PATH=/bin"}}, nil, &stderr)
	entries, readErr := os.ReadDir(outside)
	if readErr != nil || len(entries) != 0 {
		t.Errorf("%d files were made outside the root: Run = %v, %v", len(entries), err, readErr)
	}
}
