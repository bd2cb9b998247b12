package tomledit_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/node/host/tomledit"
)

const original = `# The main file.
version = 2 # do not touch
imports = [
  "/a/*.toml", # first
]

[plugins]
  # About images.
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs" # the usual
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'

[timeouts]
"io.containerd.timeout.shim.load" = "5s"`

func edit(t *testing.T, text string, change func(d *tomledit.Document) error) string {
	t.Helper()
	d, err := tomledit.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := change(d); err != nil {
		t.Fatal(err)
	}
	return string(d.Bytes())
}

func TestEdit(t *testing.T) {
	cri := []string{"plugins", "io.containerd.grpc.v1.cri", "containerd"}
	got := edit(t, original, func(d *tomledit.Document) error {
		for _, change := range []struct {
			value any
			path  []string
		}{
			{"brisk", append(cri, "snapshotter")},
			{false, append(cri, "disable_snapshot_annotations")},
			{[]string{"/a/*.toml", "/b"}, []string{"imports"}},
			{1, []string{"oom_score"}},
			{"snapshot", []string{"proxy_plugins", "brisk", "type"}},
			{"/run/it.sock", []string{"proxy_plugins", "brisk", "address"}},
			{"/x", []string{"proxy_plugins", "brisk", "exports", "root"}},
		} {
			if err := d.Set(change.value, change.path...); err != nil {
				return err
			}
		}
		return nil
	})
	want := `# The main file.
version = 2 # do not touch
imports = ['/a/*.toml', '/b']
oom_score = 1

[plugins]
  # About images.
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = 'brisk' # the usual
    disable_snapshot_annotations = false
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'

[timeouts]
"io.containerd.timeout.shim.load" = "5s"

[proxy_plugins.brisk]
type = 'snapshot'
address = '/run/it.sock'

[proxy_plugins.brisk.exports]
root = '/x'
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	back := edit(t, got, func(d *tomledit.Document) error {
		if err := d.Delete("proxy_plugins", "brisk"); err != nil {
			return err
		}
		if err := d.Delete("oom_score"); err != nil {
			return err
		}
		if err := d.Delete(append(cri, "disable_snapshot_annotations")...); err != nil {
			return err
		}
		return d.Set("overlayfs", append(cri, "snapshotter")...)
	})
	want = `# The main file.
version = 2 # do not touch
imports = ['/a/*.toml', '/b']

[plugins]
  # About images.
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = 'overlayfs' # the usual
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = 'io.containerd.runc.v2'

[timeouts]
"io.containerd.timeout.shim.load" = "5s"
`
	if diff := cmp.Diff(want, back); diff != "" {
		t.Error(diff)
	}
}

// TestUnusual changes documents that are written in unusual ways.
func TestUnusual(t *testing.T) {
	for _, text := range []string{
		"", "\n\n", "# nothing", "a = 1", "[a]\n[[c]]\n[[c]]\nd = 1\n",
		"plugins = {cri = {containerd = {snapshotter = 'x'}}}\n",
		"plugins.cri.containerd.snapshotter = 'x'\n",
		"[plugins]\ncri.containerd = {snapshotter = 'x'}\n",
		"[plugins.cri]\n[plugins.cri.containerd]\n[[plugins.cri.containerd.list]]\na = 1\n",
		"[plugins.cri]\ncontainerd.other = 1\n",
		"[a]\r\nb = 1\r\n[plugins.cri.containerd]\r\nsnapshotter = \"\"\"\r\nx\"\"\"\r\n",
	} {
		path := []string{"plugins", "cri", "containerd", "snapshotter"}
		set := edit(t, text, func(d *tomledit.Document) error { return d.Set("brisk", path...) })
		d, err := tomledit.Parse([]byte(set))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := d.Get(path...); got != "brisk" {
			t.Errorf("%q becomes %q", text, set)
		}
		if err := d.Delete(path...); err != nil {
			t.Error(err)
		}
		if got, ok := d.Get(path...); ok {
			t.Errorf("%q: %q is left in %q", text, got, d.Bytes())
		}
	}
}

func TestErrors(t *testing.T) {
	if _, err := tomledit.Parse([]byte("a = ")); err == nil {
		t.Error("no error")
	}
	d, err := tomledit.Parse([]byte("a = 1\n[b]\nc = 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Set(1, "a", "b"); err == nil {
		t.Error("a value became a table")
	}
	if err := d.Set(1, "b"); err == nil {
		t.Error("a table became a value")
	}
	if err := d.Delete("x", "y"); err != nil {
		t.Error(err)
	}
}

func FuzzEdit(f *testing.F) {
	f.Add([]byte(original), "plugins", "x")
	f.Add([]byte("a.b = {c = 1}\n[[d]]\n"), "a", "b")
	f.Add([]byte("a = nan\n"), "a", "b c")
	f.Fuzz(func(t *testing.T, text []byte, table, key string) {
		d, err := tomledit.Parse(text)
		if err != nil {
			return
		}
		if err := d.Set("value", table, key); err != nil {
			return
		}
		values, ok := d.Get(table, key)
		if !ok || values != "value" {
			t.Errorf("%q: %v", d.Bytes(), values)
		}
		only, err := tomledit.Parse(d.Bytes())
		if err != nil {
			t.Fatalf("%v: %q", err, d.Bytes())
		}
		if err := only.Delete(table, key); err != nil {
			t.Errorf("%v: %q", err, d.Bytes())
		}
		if _, ok := only.Get(table, key); ok {
			t.Errorf("%q", only.Bytes())
		}
	})
}
