package containerdconfig_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/brisk-project/brisk/node/host/containerdconfig"
	"github.com/brisk-project/brisk/test/containerdtest"
)

// envPrograms lists further containerd programs to test with, as a PATH does.
const envPrograms = "BRISK_TEST_CONTAINERDS"

// dump returns the configuration that containerd comes to, without what is to change.
func dump(t *testing.T, program string, at containerdconfig.Target) (text []byte, others map[string]any) {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), program, "--config", at.Main, "config", "dump").Output()
	if err != nil {
		t.Fatalf("config dump: %v", err)
	}
	if err := toml.Unmarshal(text, &others); err != nil {
		t.Fatal(err)
	}
	delete(others, "imports")
	if plugins, ok := others["proxy_plugins"].(map[string]any); ok {
		delete(plugins, at.Name)
	}
	for _, path := range [][]string{
		{"plugins", "io.containerd.grpc.v1.cri", "containerd"}, {"plugins", "io.containerd.cri.v1.images"},
	} {
		table, ok := others, true
		for _, key := range path {
			if ok {
				table, ok = table[key].(map[string]any)
			}
		}
		if ok {
			delete(table, "snapshotter")
			delete(table, "disable_snapshot_annotations")
			delete(table, "use_local_image_pull")
		}
	}
	if plugins, ok := others["proxy_plugins"].(map[string]any); ok && len(plugins) == 0 {
		delete(others, "proxy_plugins")
	}
	return text, others
}

// TestContainerd lets containerd read what is written.
func TestContainerd(t *testing.T) {
	programs := append(filepath.SplitList(os.Getenv(envPrograms)), containerdtest.Program(t, "containerd"))
	for _, program := range programs {
		out, err := exec.CommandContext(t.Context(), program, "--version").Output()
		if err != nil {
			t.Fatal(err)
		}
		version, err := containerdconfig.ParseVersion(string(out))
		if err != nil {
			t.Fatal(err)
		}
		usual, err := exec.CommandContext(t.Context(), program, "config", "default").Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Run(version.String()+"/default", func(t *testing.T) { readByContainerd(t, program, version, usual) })
		for _, name := range cases(t) {
			content, err := os.ReadFile(filepath.Join("testdata", name, "config.toml"))
			if err != nil {
				continue
			}
			if bytes.Contains(content, []byte("version = 3")) && version.Major < 2 ||
				bytes.Contains(content, []byte("version = 4")) && !version.AtLeast(2, 3) {
				continue
			}
			t.Run(version.String()+"/"+name, func(t *testing.T) { readByContainerd(t, program, version, content) })
		}
	}
}

func readByContainerd(t *testing.T, program string, version containerdconfig.Version, content []byte) {
	t.Helper()
	dir := t.TempDir()
	at := target("", version)
	at.Main, at.DropIn = filepath.Join(dir, "config.toml"), filepath.Join(dir, "conf.d", "zz-brisk.toml")
	content = bytes.ReplaceAll(content, []byte("/etc/containerd/conf.d"), []byte(filepath.Dir(at.DropIn)))
	if err := os.WriteFile(at.Main, content, 0o600); err != nil {
		t.Fatal(err)
	}
	before, others := dump(t, program, at)
	for _, state := range []containerdconfig.State{containerdconfig.Selected, containerdconfig.Registered} {
		bring(t, at, state)
		text, now := dump(t, program, at)
		if diff := cmp.Diff(others, now); diff != "" {
			t.Errorf("state %d changes other values:\n%s", state, diff)
		}
		problems, err := at.Check(text)
		if err != nil {
			t.Error(err)
		}
		if state == containerdconfig.Selected && len(problems) > 0 {
			t.Errorf("problems: %v", problems)
		}
	}
	bring(t, at, containerdconfig.Absent)
	if after, _ := dump(t, program, at); !bytes.Equal(after, before) {
		t.Errorf("not as before:\n%s", cmp.Diff(string(before), string(after)))
	}
	if left, err := os.ReadFile(at.Main); err != nil || !bytes.Equal(left, content) {
		t.Errorf("the main file became %q, %v", left, err)
	}
}
