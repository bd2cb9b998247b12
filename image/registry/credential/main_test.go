package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const hidden = "swordfish"

func repo(tb testing.TB, s string) name.Repository {
	tb.Helper()
	parsed, err := name.NewRepository(s)
	if err != nil {
		tb.Fatal(err)
	}
	return parsed
}

func basic(tb testing.TB, user, password string) Secret {
	tb.Helper()
	s, err := NewSecret(authn.AuthConfig{Username: user, Password: password})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func write(tb testing.TB, path string, mode os.FileMode, content string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		tb.Fatal(err)
	}
}

// dockerJSON is a Docker configuration with one entry.
func dockerJSON(tb testing.TB, key, user, password string) string {
	tb.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	data, err := json.Marshal(map[string]any{"auths": map[string]any{key: map[string]string{"auth": auth}}})
	if err != nil {
		tb.Fatal(err)
	}
	return string(data)
}

// plugins makes a configuration of kubelet with one plugin, which is a shell script,
// and returns its path and the directory of the program.
func plugins(tb testing.TB, script string, matchImages ...string) PluginConfig {
	tb.Helper()
	dir := tb.TempDir()
	write(tb, filepath.Join(dir, "bin", "helper"), 0o755, "#!/bin/sh\n"+script)
	write(tb, filepath.Join(dir, "config.yaml"), 0o644, fmt.Sprintf(`
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: helper
    matchImages: ["%s"]
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args: ["get-credentials", "--verbose"]
    env: [{name: HELPER_DIR, value: %q}]
`, strings.Join(matchImages, `","`), dir))
	return PluginConfig{ConfigPath: filepath.Join(dir, "config.yaml"), BinDir: filepath.Join(dir, "bin")}
}

// onePlugin returns the source for it.
func onePlugin(tb testing.TB, cfg PluginConfig) *Plugin {
	tb.Helper()
	sources, err := NewPlugins(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if len(sources) != 1 {
		tb.Fatalf("%d sources", len(sources))
	}
	p, ok := sources[0].(*Plugin)
	if !ok {
		tb.Fatalf("%T", sources[0])
	}
	return p
}

// answering is the end of a script that answers.
func answering(cacheKeyType, cacheDuration, pattern, user, password string) string {
	return fmt.Sprintf(`cat >"$HELPER_DIR/request"
echo run >>"$HELPER_DIR/runs"
cat <<END
{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",
 "cacheKeyType":"%s","cacheDuration":"%s","auth":{"%s":{"username":"%s","password":"%s"}}}
END
`, cacheKeyType, cacheDuration, pattern, user, password)
}

// runs counts how often the plugin was run.
func runs(tb testing.TB, cfg PluginConfig) int {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(filepath.Dir(cfg.ConfigPath), "runs"))
	if err != nil && !os.IsNotExist(err) {
		tb.Fatal(err)
	}
	return bytes.Count(data, []byte("\n"))
}

func open(tb testing.TB, cfg Config) *Store {
	tb.Helper()
	s, err := Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// journal is a log to look into.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// shown is what a credential shows to a registry.
func shown(tb testing.TB, a authn.Authenticator) string {
	tb.Helper()
	if a == nil {
		return "no authenticator"
	}
	c, err := a.Authorization()
	if err != nil {
		tb.Fatal(err)
	}
	return c.Username + ":" + c.Password + c.IdentityToken + c.RegistryToken
}
