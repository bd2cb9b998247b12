package adopt

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	copying "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/require"
)

func TestMain(m *testing.M) {
	if code, done := mountns.Rerun(); done {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// change is what the tests do to a tree that an overlay shows.
const change = `
rm gone && rm -r removed && rm -r again && mkdir again && echo new >again/file
rm -r becomes-file && echo file >becomes-file
rm becomes-dir && mkdir becomes-dir && echo in >becomes-dir/file
rm link-to-dir && mkdir link-to-dir && echo safe >link-to-dir/file
chmod 1770 kept && chown 12:34 kept && touch -d @1600000000 kept
rm kept/changed && echo changed >kept/changed && ln kept/changed kept/hard && ln -s /etc kept/symlink && mkfifo kept/fifo
`

// overlayOf mounts an overlay and returns where.
func overlayOf(t *testing.T, lower, upper string) string {
	t.Helper()
	point, work := filepath.Join(t.TempDir(), "merged"), filepath.Join(filepath.Dir(upper), filepath.Base(upper)+"-work")
	for _, dir := range []string{point, work} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,index=off", lower, upper, work)
	if err := unix.Mount("overlay", point, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(point, 0); err != nil {
			t.Error(err)
		}
	})
	return point
}

func requireSame(t *testing.T, want, got string) {
	t.Helper()
	var trees [2]*fstree.Tree
	for i, root := range []string{want, got} {
		var err error
		if trees[i], err = fstree.Take(root); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range fstree.Diff(trees[0], trees[1]) {
		t.Error(line)
	}
}

// TestMerge takes over what an overlay has written, both as overlayfs keeps it and for a
// snapshotter that keeps whole trees, on the same disk and on another one. The oracle is the
// overlay.
func TestMerge(t *testing.T) {
	require.Root(t)
	dir, disk := fstree.TempDir(t), t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	lower, upper := filepath.Join(dir, "lower"), filepath.Join(dir, "upper")
	for _, made := range []string{lower, upper} {
		if err := os.MkdirAll(made, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run := func(in, script string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
		cmd.Dir = in
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	run(lower, "echo a >gone; mkdir -p removed/deep again becomes-file kept; echo b >again/old; echo c >becomes-dir; ln -s /tmp link-to-dir; echo d >kept/changed; echo e >kept/stays")
	merged := overlayOf(t, lower, upper)
	run(merged, change)
	for name, value := range map[string]string{"user.a": "b", "trusted.c": "d"} {
		if err := unix.Setxattr(filepath.Join(merged, "kept"), name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	// Links that the second one makes would show in the first one's oracle.
	for _, to := range []string{disk, dir} {
		t.Run(fmt.Sprintf("same disk %t", to == dir), func(t *testing.T) {
			layered, whole := filepath.Join(to, "layered"), filepath.Join(to, "whole")
			if err := os.Mkdir(layered, 0o750); err != nil {
				t.Fatal(err)
			}
			if err := copying.CopyDir(whole, lower); err != nil {
				t.Fatal(err)
			}
			if err := (target{dir: layered, layered: true}).merge(upper); err != nil {
				t.Fatal(err)
			}
			requireSame(t, merged, overlayOf(t, lower, layered))
			if err := (target{dir: whole}).merge(upper); err != nil {
				t.Fatal(err)
			}
			requireSame(t, merged, whole)
		})
	}
}

// TestUnpackIncomplete checks that a layer is only taken for what its name says it is.
func TestUnpackIncomplete(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stream")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for size, parent := range map[int64]string{4096: "", 8192: "", 4096 + 1: "sha256:x"} {
		err := (target{dir: t.TempDir(), layered: true}).unpack(t.Context(), path, size, "sha256:0", parent)
		if err == nil {
			t.Errorf("zeros of %d bytes are taken for a layer", size)
		}
	}
}
