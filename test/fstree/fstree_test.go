package fstree_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/test/fstree"
)

// build makes a small tree that has a bit of everything.
func build(t *testing.T) string {
	t.Helper()
	root := fstree.TempDir(t)
	at := func(name string) string { return filepath.Join(root, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(at("dir"), 0o755))
	must(os.WriteFile(at("dir/file"), []byte("content"), 0o644))
	must(os.WriteFile(at("single"), []byte("content"), 0o644))
	must(os.Link(at("dir/file"), at("a-link")))
	must(os.Symlink("dir/file", at("symlink")))
	must(unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mkfifo(at("fifo"), 0o600))
	must(unix.Setxattr(at("single"), "user.key", []byte("value"), 0))
	for _, name := range []string{"dir/file", "single", "symlink", "null", "fifo", "dir", "."} {
		times := []unix.Timespec{{Sec: 1}, {Sec: 1_600_000_000, Nsec: 5}}
		must(unix.UtimesNanoAt(unix.AT_FDCWD, at(name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
	return root
}

func take(t *testing.T, root string) *fstree.Tree {
	t.Helper()
	tree, err := fstree.Take(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestTake(t *testing.T) {
	root := build(t)
	tree := take(t, root)
	when := time.Unix(1_600_000_000, 5).UTC()
	const digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
	want := []fstree.Entry{
		{Path: ".", Mode: unix.S_IFDIR | 0o755, ModTime: when},
		{Path: "a-link", Mode: unix.S_IFREG | 0o644, Size: 7, SHA256: digest, Links: 2, Group: "a-link", ModTime: when},
		{Path: "dir", Mode: unix.S_IFDIR | 0o755, ModTime: when},
		{Path: "dir/file", Mode: unix.S_IFREG | 0o644, Size: 7, SHA256: digest, Links: 2, Group: "a-link", ModTime: when},
		{Path: "fifo", Mode: unix.S_IFIFO | 0o600, Links: 1, ModTime: when},
		{Path: "null", Mode: unix.S_IFCHR | 0o644, Links: 1, Major: 1, Minor: 3, ModTime: when},
		{
			Path: "single", Mode: unix.S_IFREG | 0o644, Size: 7, SHA256: digest, Links: 1, ModTime: when,
			Xattrs: map[string]string{"user.key": "value"},
		},
		{Path: "symlink", Mode: unix.S_IFLNK | 0o777, Size: 8, Target: "dir/file", Links: 1, ModTime: when},
	}
	if diff := cmp.Diff(want, tree.Entries); diff != "" {
		t.Errorf("entries differ (-want +got):\n%s", diff)
	}
	if diff := fstree.Diff(tree, take(t, root)); diff != nil {
		t.Errorf("two snapshots of the same tree differ: %q", diff)
	}
}

func TestDiffTellsEveryField(t *testing.T) {
	tests := []struct {
		name   string
		change func(root string) error
		want   string
	}{
		{"missing", func(root string) error { return os.Remove(filepath.Join(root, "fifo")) }, `"fifo": missing`},
		{"extra", func(root string) error { return os.Mkdir(filepath.Join(root, "more"), 0o700) }, `"more": should not exist`},
		{"mode", func(root string) error { return os.Chmod(filepath.Join(root, "single"), 0o600) }, `"single": mode is 0100600, want 0100644`},
		{"owner", func(root string) error { return os.Lchown(filepath.Join(root, "symlink"), 7, 0) }, `"symlink": owner is 7, want 0`},
		{"group", func(root string) error { return os.Lchown(filepath.Join(root, "fifo"), 0, 8) }, `"fifo": group is 8, want 0`},
		{"size", func(root string) error { return os.Truncate(filepath.Join(root, "single"), 3) }, `"single": size is 3, want 7`},
		{
			"content", func(root string) error { return os.WriteFile(filepath.Join(root, "single"), []byte("CONTENT"), 0o600) },
			`"single": content digest`,
		},
		{"link broken", func(root string) error { return os.Remove(filepath.Join(root, "a-link")) }, `"dir/file": link count is 1, want 2`},
		{
			"xattr", func(root string) error {
				return unix.Setxattr(filepath.Join(root, "single"), "user.key", []byte("other"), 0)
			},
			`"single": set of extended attributes`,
		},
		{
			"time of a directory", func(root string) error { return os.Chtimes(filepath.Join(root, "dir"), time.Time{}, time.Unix(1, 0)) },
			`"dir": modification time is 1970-01-01T00:00:01Z, want 2020-09-13T12:26:40.000000005Z`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := build(t)
			want := take(t, root)
			if err := tt.change(root); err != nil {
				t.Fatal(err)
			}
			diff := fstree.Diff(want, take(t, root))
			if all := strings.Join(diff, "\n"); !strings.Contains(all, tt.want) {
				t.Errorf("differences are\n%s\nwithout\n%s", all, tt.want)
			}
		})
	}
}

func TestDiffLeavesOutTimesOfUnpacking(t *testing.T) {
	root := build(t)
	want := take(t, root)
	want.Since = time.Unix(1_600_000_000, 0)
	for _, name := range []string{"dir", "single"} {
		if err := os.Chtimes(filepath.Join(root, name), time.Time{}, time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	got := fstree.Diff(want, take(t, root))
	if len(got) != 1 || !strings.HasPrefix(got[0], `"single": modification time`) {
		t.Errorf("differences are %q, want only the time of the file", got)
	}
}
