package containerdconfig_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/brisk-project/brisk/node/host/containerdconfig"
)

// TestFormer checks that what the CRI had is known while it has ours.
func TestFormer(t *testing.T) {
	const (
		imports = "imports = ['/etc/containerd/conf.d/*.toml']\n"
		old     = "[plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'native'\n"
		newer   = "[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'native'\n"
	)
	for name, test := range map[string]struct {
		version containerdconfig.Version
		files   map[string]string
		want    string
	}{
		"no file":       {containerdconfig.Version{Major: 2}, nil, "overlayfs"},
		"default":       {containerdconfig.Version{Major: 1, Minor: 7}, map[string]string{"config.toml": "version = 2\n"}, "overlayfs"},
		"1.7":           {containerdconfig.Version{Major: 1, Minor: 7}, map[string]string{"config.toml": "version = 2\n" + old}, "native"},
		"2.4":           {containerdconfig.Version{Major: 2, Minor: 4}, map[string]string{"config.toml": "version = 3\n" + newer}, "native"},
		"imported":      {containerdconfig.Version{Major: 2, Minor: 4}, map[string]string{"config.toml": "version = 3\n" + imports, "conf.d/a.toml": "version = 3\n" + newer}, "native"},
		"imported last": {containerdconfig.Version{Major: 2, Minor: 4}, map[string]string{"config.toml": "version = 3\n" + imports + newer, "conf.d/a.toml": "[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'erofs'\n"}, "erofs"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, content := range test.files {
				path = filepath.Join(root, "etc/containerd", path)
				if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			at := target(root, test.version)
			for _, state := range []containerdconfig.State{containerdconfig.Absent, containerdconfig.Registered, containerdconfig.Selected} {
				bring(t, at, state)
				if got, err := at.PreviousSnapshotter(); err != nil || got != test.want {
					t.Errorf("state %d: %q, %v", state, got, err)
				}
			}
		})
	}
}
