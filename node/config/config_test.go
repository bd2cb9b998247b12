package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nodeconfig "github.com/brisk-project/brisk/node/config"
)

const header = "apiVersion: brisk.dev/v1alpha1\nkind: NodeConfig\n"

func TestDefaults(t *testing.T) {
	got, err := nodeconfig.Parse([]byte(header))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(nodeconfig.Default(), got); diff != "" {
		t.Error(diff)
	}
}

func TestValues(t *testing.T) {
	got, err := nodeconfig.Parse([]byte(header + `
directory: /data/brisk
cache: {size: 100Gi, memory: 67108864}
mount:
  readTimeout: 1m30s
registry:
  plainHTTP: [localhost:5000]
http:
  address: ""
`))
	if err != nil {
		t.Fatal(err)
	}
	want := nodeconfig.Default()
	want.Directory = "/data/brisk"
	want.Cache.Size, want.Cache.Memory = 100<<30, 64<<20
	want.Mount.ReadTimeout = nodeconfig.Duration(90 * time.Second)
	want.Registry.PlainHTTP = []string{"localhost:5000"}
	want.HTTP.Address = ""
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsNameTheField(t *testing.T) {
	for content, want := range map[string]string{
		"":                                                    "apiVersion: \"\" is not one of brisk.dev/v1alpha1",
		"apiVersion: v2\nkind: NodeConfig":                    "apiVersion: \"v2\"",
		header + "cache: {size: 20Gb}":                        `"20Gb" is not a size`,
		header + "cache: {size: -1}":                          "is not a size",
		header + "cache: {size: 1.5Gi}":                       "is not a size",
		header + "cache: {size: 99999999Ti}":                  "is not a size",
		header + "cache: {size: 1Mi}":                         "cache.size: 1Mi is less than 64Mi",
		header + "cache: {inodes: 10}":                        "cache.inodes: 10 is less than 1000",
		header + "cache: {lowWater: 98}":                      "cache.lowWater: 98 and cache.highWater 97",
		header + "cache: {highWater: 101}":                    "cache.lowWater: 92 and cache.highWater 101",
		header + "process: {memoryLimit: 1Mi}":                "process.memoryLimit: 1Mi is less than 32Mi",
		header + "cache: {sise: 1Gi}":                         "sise",
		header + "mount: {readTimeout: 30}":                   `line 3: mount.readTimeout: "30" is not a duration`,
		header + "mount: {readTimeout: 0s}":                   "mount.readTimeout: 0s is not between",
		header + "mount: {backend: ext4}":                     `mount.backend: "ext4" is not one of`,
		header + "snapshotter: {mode: eager}":                 `snapshotter.mode: "eager" is not one of`,
		header + "log: {level: loud}":                         `log.level: "loud" is not one of`,
		header + "directory: var":                             `directory: "var" is not an absolute path`,
		header + "directory: /a:b":                            "mount options",
		header + "socket: /" + long:                           "socket: the path of a socket",
		header + "peers: {listen: [here]}":                    "peers.listen[0]",
		header + "peers: {members: [a, b]}":                   "peers.members[1]",
		header + "registry: {plainHTTP: [a/]}":                "registry.plainHTTP[0]",
		header + "http: {address: here}":                      "http.address",
		header + "http: {pprof: true, address: '0.0.0.0:80'}": "http.pprof",
		header + "http: {pprof: true, address: ''}":           "http.pprof",
		header + "kubernetes: {address: here}":                "kubernetes.address",
		header + "kubernetes: {kubeconfig: here}":             "kubernetes.kubeconfig",
		header + header:                                       "already defined",
		header + "x: " + strings.Repeat("[", 99):              "did not find expected",
		"- a":                                                 "",
	} {
		_, err := nodeconfig.Parse([]byte(content))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", content, err)
		}
	}
}

const long = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890"

func TestErrorNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(header+"cache:\n  sise: 1Gi\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := nodeconfig.Load(path)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "line 4: field sise") {
		t.Error(err)
	}
}

// TestDocumented reads the example in the documentation: it is what the defaults are.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		t.Fatal("the page has no example")
	}
	got, err := nodeconfig.Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(nodeconfig.Default(), got); diff != "" {
		t.Errorf("the example does not show the defaults:\n%s", diff)
	}
	content, err := got.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		field, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if !strings.Contains(example, field+":") {
			t.Errorf("the example does not show %s", field)
		}
	}
}

func TestSizes(t *testing.T) {
	for size, want := range map[nodeconfig.Size]string{
		0: "0", 1: "1", 1000: "1k", 1024: "1Ki", 20 << 30: "20Gi", 5e9: "5G", 1 << 62: "4194304Ti",
	} {
		if got := nodeconfig.FormatSize(size); got != want {
			t.Errorf("%d: %s", int64(size), got)
		}
	}
}

func FuzzParse(f *testing.F) {
	content, err := new(nodeconfig.Default()).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add([]byte(header + "cache: {size: 1Gi}\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("<<: {a: 1}\n? b\n: |\n  c\n---\n...\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		cfg, err := nodeconfig.Parse(content)
		if err != nil {
			return
		}
		again, err := cfg.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := nodeconfig.Parse(again)
		if err != nil {
			t.Fatalf("%v\n%s", err, again)
		}
		if diff := cmp.Diff(cfg, got); diff != "" {
			t.Errorf("%s\n%s", again, diff)
		}
	})
}

func FuzzSize(f *testing.F) {
	f.Add("20Gi")
	f.Add("1k")
	f.Fuzz(func(t *testing.T, text string) {
		size, err := nodeconfig.ParseSize(text)
		if err != nil {
			return
		}
		again, err := nodeconfig.ParseSize(nodeconfig.FormatSize(size))
		if err != nil || again != size {
			t.Errorf("%d: %d: %v", size, again, err)
		}
	})
}

func TestCredentialFields(t *testing.T) {
	for content, want := range map[string]string{
		"registry: {configPath: '/a:b'}":                         `registry.configPath: "b" is not an absolute path`,
		"credentials: {dockerConfig: config.json}":               "credentials.dockerConfig",
		"credentials: {directory: secrets}":                      "credentials.directory",
		"credentials: {plugins: {config: /c}}":                   "credentials.plugins: config and binDir are only of use together",
		"credentials: {plugins: {config: c, binDir: /b}}":        "credentials.plugins.config",
		"credentials: {file: /a, keyFile: /a}":                   "credentials.keyFile",
		"credentials: {password: secret}":                        "password",
		"cri: {socket: cri.sock}":                                "cri.socket",
		"cri: {socket: /" + long + "}":                           "cri.socket: the path of a socket",
		"cri: {socket: /run/containerd/containerd.sock}":         "it is that of containerd",
		"cri: {socket: /a.sock, runtime: /a.sock}":               "it is that of containerd",
		"cri: {socket: " + nodeconfig.DefaultSocket + "}":        "it is that of the snapshotter",
		"cri: {socket: /a.sock, runtime: relative}":              "cri.runtime",
		"cri: {socket: /a.sock}\ncontainerd: {address: /a.sock}": "it is that of containerd",
		"cri: {socket: /a.sock, runtime: /b.sock}":               "",
	} {
		_, err := nodeconfig.Parse([]byte(header + content))
		if want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", content, err)
		}
	}
	cfg := nodeconfig.Default()
	if file, key := cfg.CredentialFiles(); file != "/var/lib/brisk/credentials" || key != "/var/lib/brisk/credentials.key" {
		t.Errorf("kept in %s and %s", file, key)
	}
	cfg.Credentials.File = "/c"
	if file, key := cfg.CredentialFiles(); file != "/c" || key != "/c.key" || cfg.Runtime() != cfg.Containerd.Address {
		t.Errorf("kept in %s and %s; runtime %s", file, key, cfg.Runtime())
	}
}
