package doctor_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/node/host/doctor"
)

const hidden = "swordfish"

// write writes a file, and the directory that it is in.
func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestCredentials(t *testing.T) {
	const (
		good    = `{"auths":{"r.example":{"username":"u","password":"` + hidden + `"}}}`
		plugins = `{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[{"name":"cloud","matchImages":["r.example"],
"defaultCacheDuration":"1h","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}]}`
	)
	for what, c := range map[string]struct {
		prepare func(t *testing.T, dir string, cfg *doctor.Config)
		check   string
		want    doctor.Level
		says    string
	}{
		"nothing": {func(*testing.T, string, *doctor.Config) {}, "credentials", doctor.OK, "sealed"},
		"docker config": {func(t *testing.T, dir string, cfg *doctor.Config) {
			t.Helper()
			cfg.Node.Credentials.DockerConfig = filepath.Join(dir, "d.json")
			write(t, cfg.Node.Credentials.DockerConfig, good, 0o600)
		}, "credentials", doctor.OK, ""},
		"docker config for all": {func(t *testing.T, dir string, cfg *doctor.Config) {
			t.Helper()
			cfg.Node.Credentials.DockerConfig = filepath.Join(dir, "d.json")
			write(t, cfg.Node.Credentials.DockerConfig, good, 0o644)
		}, "credentials", doctor.Warn, "mode 0644"},
		"docker config missing": {func(_ *testing.T, dir string, cfg *doctor.Config) {
			cfg.Node.Credentials.DockerConfig = filepath.Join(dir, "d.json")
		}, "credentials", doctor.Fail, "no such file"},
		"docker config broken": {func(t *testing.T, dir string, cfg *doctor.Config) {
			t.Helper()
			cfg.Node.Credentials.DockerConfig = filepath.Join(dir, "d.json")
			write(t, cfg.Node.Credentials.DockerConfig, hidden+good, 0o600)
		}, "credentials", doctor.Fail, "not a Docker configuration"},
		"directory": {func(t *testing.T, dir string, cfg *doctor.Config) {
			t.Helper()
			cfg.Node.Credentials.Directory = filepath.Join(dir, "secrets")
			write(t, filepath.Join(dir, "secrets", "a", ".dockerconfigjson"), good, 0o600)
		}, "credentials", doctor.OK, "for 1 places"},
		"directory with junk": {func(t *testing.T, dir string, cfg *doctor.Config) {
			t.Helper()
			cfg.Node.Credentials.Directory = filepath.Join(dir, "secrets")
			write(t, filepath.Join(dir, "secrets", "a"), hidden, 0o600)
		}, "credentials", doctor.Warn, "not a Docker configuration"},
		"directory missing": {func(_ *testing.T, dir string, cfg *doctor.Config) {
			cfg.Node.Credentials.Directory = filepath.Join(dir, "secrets")
		}, "credentials", doctor.Fail, "no directory"},
		"plugins": {func(t *testing.T, dir string, cfg *doctor.Config) {
			t.Helper()
			cfg.Node.Credentials.Plugins.Config, cfg.Node.Credentials.Plugins.BinDir = filepath.Join(dir, "p.json"), dir
			write(t, filepath.Join(dir, "p.json"), plugins, 0o600)
			write(t, filepath.Join(dir, "cloud"), "#!/bin/sh", 0o700)
		}, "credentials", doctor.OK, "1 credential plugins"},
		"plugin without program": {func(t *testing.T, dir string, cfg *doctor.Config) {
			t.Helper()
			cfg.Node.Credentials.Plugins.Config, cfg.Node.Credentials.Plugins.BinDir = filepath.Join(dir, "p.json"), dir
			write(t, filepath.Join(dir, "p.json"), plugins, 0o600)
			write(t, filepath.Join(dir, "cloud"), "#!/bin/sh", 0o600)
		}, "credentials", doctor.Fail, "plugin cloud cannot be run"},
		"sealed file damaged": {func(t *testing.T, _ string, cfg *doctor.Config) {
			t.Helper()
			file, key := cfg.Node.CredentialFiles()
			write(t, file, "junk", 0o600)
			write(t, key, strings.Repeat("k", 32), 0o600)
		}, "credentials", doctor.Warn, "cannot be used"},
		"key for all": {func(t *testing.T, _ string, cfg *doctor.Config) {
			t.Helper()
			_, key := cfg.Node.CredentialFiles()
			write(t, key, strings.Repeat("k", 32), 0o644)
		}, "credentials", doctor.Warn, "others could read"},
		"no mirrors": {func(*testing.T, string, *doctor.Config) {}, "registries", doctor.OK, "no mirrors"},
		"mirrors": {func(t *testing.T, dir string, cfg *doctor.Config) {
			t.Helper()
			cfg.Node.Registry.ConfigPath = filepath.Join(dir, "certs.d")
			write(t, filepath.Join(dir, "certs.d", "r.example", "hosts.toml"), "server = 'https://m.example'", 0o600)
		}, "registries", doctor.OK, "1 registries"},
		"mirrors broken": {func(t *testing.T, dir string, cfg *doctor.Config) {
			t.Helper()
			cfg.Node.Registry.ConfigPath = filepath.Join(dir, "certs.d")
			write(t, filepath.Join(dir, "certs.d", "r.example", "hosts.toml"), "server = "+hidden, 0o600)
		}, "registries", doctor.Fail, "not TOML"},
		"no socket": {func(*testing.T, string, *doctor.Config) {}, "kubelet", doctor.OK, "cri.socket is not set"},
		"nobody there": {func(_ *testing.T, dir string, cfg *doctor.Config) {
			cfg.Node.CRI.Socket = filepath.Join(dir, "cri.sock")
		}, "kubelet", doctor.Fail, "image service"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			cfg := config(t, dir)
			cfg.Node.Registry.ConfigPath = ""
			c.prepare(t, dir, &cfg)
			findings := doctor.Run(t.Context(), cfg)
			if got := levels(t, findings)[c.check]; got != c.want {
				t.Errorf("%s is %s", c.check, got)
			}
			found := false
			for _, f := range findings {
				found = found || f.Check == c.check && f.Level == c.want && strings.Contains(f.Found, c.says)
				if strings.Contains(f.Found+f.Advice, hidden) {
					t.Errorf("a secret is in %q", f.Found)
				}
			}
			if !found {
				t.Errorf("nothing says %q", c.says)
			}
		})
	}
}
