package containerdconfig_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/node/host/containerdconfig"
)

var update = flag.Bool("update", false, "write what the tests expect")

func target(root string, version containerdconfig.Version) containerdconfig.Target {
	return containerdconfig.Target{
		Name: "brisk", Socket: "/run/brisk/snapshotter.sock", Dir: "/var/lib/brisk", Version: version, Root: root,
		Main: containerdconfig.DefaultMain, DropIn: containerdconfig.DefaultDropIn,
	}
}

// bring brings the files into a state, and checks that doing so twice changes nothing.
func bring(t *testing.T, at containerdconfig.Target, state containerdconfig.State) {
	t.Helper()
	for again := range 2 {
		changes, err := at.Plan(state)
		if err != nil {
			t.Fatal(err)
		}
		if again > 0 && len(changes) > 0 {
			t.Errorf("state %d is not reached at once:\n%s", state, containerdconfig.Diff(changes))
		}
		if err := containerdconfig.Apply(changes); err != nil {
			t.Fatal(err)
		}
	}
}

// tree returns the content of all files below a directory.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, root)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// golden compares the files below root with those of testdata.
func golden(t *testing.T, root, dir string) {
	t.Helper()
	got := make(map[string]string)
	for path, content := range tree(t, root) {
		got[filepath.Base(path)] = content
	}
	if *update {
		for name, content := range got {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := make(map[string]string)
	for path, content := range tree(t, dir) {
		want[filepath.Base(path)] = content
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s:\n%s", dir, diff)
	}
}

func cases(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.Name() != "fuzz" {
			names = append(names, entry.Name())
		}
	}
	return names
}

// prepare copies the main file of a case.
func prepare(t *testing.T, name string) (containerdconfig.Target, string) {
	t.Helper()
	root := t.TempDir()
	number, _, _ := strings.Cut(name, "-")
	version, err := containerdconfig.ParseVersion(number + ".3")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join("testdata", name, "config.toml"))
	if err == nil {
		path := filepath.Join(root, containerdconfig.DefaultMain)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return target(root, version), root
}

func TestGolden(t *testing.T) {
	for _, name := range cases(t) {
		t.Run(name, func(t *testing.T) {
			at, root := prepare(t, name)
			before := tree(t, root)
			bring(t, at, containerdconfig.Selected)
			golden(t, root, filepath.Join("testdata", name, "selected"))
			bring(t, at, containerdconfig.Registered)
			golden(t, root, filepath.Join("testdata", name, "known"))
			bring(t, at, containerdconfig.Selected)
			golden(t, root, filepath.Join("testdata", name, "selected"))
			bring(t, at, containerdconfig.Absent)
			if diff := cmp.Diff(before, tree(t, root)); diff != "" {
				t.Errorf("not as before:\n%s", diff)
			}
		})
	}
}

// TestLaterEdits checks that what somebody changes between the two stays.
func TestLaterEdits(t *testing.T) {
	for _, name := range cases(t) {
		t.Run(name, func(t *testing.T) {
			at, root := prepare(t, name)
			bring(t, at, containerdconfig.Selected)
			main := filepath.Join(root, at.Main)
			content, err := os.ReadFile(main)
			if err != nil {
				t.Fatal(err)
			}
			const added = "\n[stream_processors.later]\npath = \"/bin/later\"\n"
			if err := os.WriteFile(main, append(content, added...), 0o644); err != nil {
				t.Fatal(err)
			}
			bring(t, at, containerdconfig.Absent)
			left := tree(t, root)
			if len(left) != 1 {
				t.Errorf("left: %v", left)
			}
			text := left[at.Main]
			if strings.Contains(text, "brisk.sock") || strings.Contains(text, "'brisk'") || !strings.Contains(text, added) {
				t.Error(text)
			}
		})
	}
}

func TestForeignFiles(t *testing.T) {
	at, root := prepare(t, "2.1-kubeadm")
	path := filepath.Join(root, at.DropIn)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("version = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := at.Plan(containerdconfig.Selected); err == nil {
		t.Error("a foreign file would be replaced")
	}
	if err := os.Rename(path, filepath.Join(filepath.Dir(path), "other.toml")); err != nil {
		t.Fatal(err)
	}
	bring(t, at, containerdconfig.Selected)
	bring(t, at, containerdconfig.Absent)
	main, err := os.ReadFile(filepath.Join(root, at.Main))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(main), "conf.d/*.toml") {
		t.Error("the import that another file needs is gone")
	}
}

func TestRefused(t *testing.T) {
	for name, content := range map[string]string{
		"format of version 1": "[plugins.cri]\n",
		"parsing TOML":        "a = \n",
		"not a number":        "version = \"2\"\n",
		"is not a table":      "version = 2\nplugins = 1\n",
	} {
		at, root := prepare(t, "1.7-none")
		path := filepath.Join(root, at.Main)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := at.Plan(containerdconfig.Selected); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := target(t.TempDir(), containerdconfig.Version{Major: 1, Minor: 6}).Plan(containerdconfig.Selected); err == nil {
		t.Error("containerd 1.6 is supported")
	}
}

// TestUndo checks that files are as before when one of them cannot be written.
func TestUndo(t *testing.T) {
	at, root := prepare(t, "1.7-kubeadm")
	before := tree(t, root)
	changes, err := at.Plan(containerdconfig.Selected)
	if err != nil {
		t.Fatal(err)
	}
	changes = append(changes, containerdconfig.Change{Path: filepath.Join(root, at.Main, "impossible"), New: []byte{}})
	if err := containerdconfig.Apply(changes); err == nil {
		t.Error("no error")
	}
	if diff := cmp.Diff(before, tree(t, root)); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(filepath.Join(root, at.Main))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o640 {
		t.Error("mode", info.Mode())
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]string{
		"containerd github.com/containerd/containerd/v2 v2.4.2 ":       "2.4.2",
		"containerd github.com/containerd/containerd 1.7.24 1.7.24-0x": "1.7.24",
		"containerd containerd.io v1.7.29 442cb34bda9a6a0fed82a2ca7ca": "1.7.29",
		"v2.0.0-rc.1": "2.0.0",
		"2.2.1":       "2.2.1",
	} {
		got, err := containerdconfig.ParseVersion(text)
		if err != nil || got.String() != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	if _, err := containerdconfig.ParseVersion("containerd/v2 unknown"); err == nil {
		t.Error("no error")
	}
}

func TestCheck(t *testing.T) {
	for _, name := range cases(t) {
		at, root := prepare(t, name)
		if at.Version.Major >= 2 {
			continue // what is in force is in two files
		}
		bring(t, at, containerdconfig.Selected)
		text, err := os.ReadFile(filepath.Join(root, at.Main))
		if err != nil {
			t.Fatal(err)
		}
		problems, err := at.Check(text)
		if err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %v", name, problems, err)
		}
	}
	at := target("", containerdconfig.Version{Major: 2, Minor: 4})
	problems, err := at.Check([]byte(`version = 4
[proxy_plugins.brisk]
type = "snapshot"
address = "/elsewhere"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
disable_snapshot_annotations = true
discard_unpacked_layers = true
`))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, p := range problems {
		if p.Advice == "" {
			t.Errorf("no advice: %s", p.What)
		}
		all = append(all, p.What)
	}
	for _, want := range []string{"/elsewhere", "overlayfs", "no unpack_config", "does not tell", "discard_unpacked_layers"} {
		if !strings.Contains(strings.Join(all, "\n"), want) {
			t.Errorf("nothing of %s in %q", want, all)
		}
	}
	if _, err := at.Check([]byte("=")); err == nil {
		t.Error("no error")
	}
}
