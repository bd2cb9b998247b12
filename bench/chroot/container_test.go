package chroot_test

import (
	"bytes"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/bench/chroot"
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
		Dir:  "/bin",
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
