package credential

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPluginRequest(t *testing.T) {
	cfg := plugins(t, `echo "$0 $*" >"$HELPER_DIR/arguments"`+"\n"+answering("Image", "1h", "*.example", "u", "p"), "r.example")
	p := onePlugin(t, cfg)
	if got := found(t, p, "elsewhere.example/app"); got != nil || runs(t, cfg) != 0 {
		t.Errorf("run for an image that it is not for: %v", got)
	}
	if diff := cmp.Diff([]string{"u:p"}, found(t, p, "r.example/team/app")); diff != "" {
		t.Error(diff)
	}
	dir := filepath.Dir(cfg.ConfigPath)
	request, err := os.ReadFile(filepath.Join(dir, "request"))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(request, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"kind": "CredentialProviderRequest", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "image": "r.example/team/app",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	arguments, err := os.ReadFile(filepath.Join(dir, "arguments"))
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "bin", "helper") + " get-credentials --verbose\n"; string(arguments) != want {
		t.Errorf("run as %q, want %q", arguments, want)
	}
}

// The answer of a plugin holds for as many images, and as long, as it says.
func TestPluginCache(t *testing.T) {
	for _, tt := range []struct {
		key, life string
		images    []string
		want      int
	}{
		{"Image", "1h", []string{"a.example/xx", "a.example/xx", "a.example/yy", "b.example/xx"}, 3},
		{"Registry", "1h", []string{"a.example/xx", "a.example/xx", "a.example/yy", "b.example/xx"}, 2},
		{"Global", "1h", []string{"a.example/xx", "a.example/xx", "a.example/yy", "b.example/xx"}, 1},
		{"Image", "0s", []string{"a.example/xx", "a.example/xx"}, 2},
		{"Image", "-5m", []string{"a.example/xx", "a.example/xx"}, 2},
		{"Image", "1ns", []string{"a.example/xx", "a.example/xx"}, 2},
	} {
		cfg := plugins(t, answering(tt.key, tt.life, "*.example", "u", "p"), "*.example")
		p := onePlugin(t, cfg)
		for _, image := range tt.images {
			if diff := cmp.Diff([]string{"u:p"}, found(t, p, image)); diff != "" {
				t.Errorf("%s %s, %s: %s", tt.key, tt.life, image, diff)
			}
		}
		if got := runs(t, cfg); got != tt.want {
			t.Errorf("%s %s: run %d times, want %d", tt.key, tt.life, got, tt.want)
		}
	}
	cfg := plugins(t, answering("Global", "1h", "*.example", "u", "p"), "*.example")
	p := onePlugin(t, cfg)
	q := Query{Repository: repo(t, "a.example/xx"), Image: "a.example/xx"}
	for range 2 {
		answers, err := p.Lookup(t.Context(), q)
		if err != nil || len(answers) != 1 || answers[0].Ephemeral || time.Until(answers[0].Expires) < 50*time.Minute {
			t.Errorf("answers %v, %v", answers, err)
		}
		q.After = time.Now() // it was refused
	}
	if got := runs(t, cfg); got != 2 {
		t.Errorf("run %d times, want again after a refusal", got)
	}
}

func TestPluginFailures(t *testing.T) {
	answer := `echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",%s}'`
	for what, tt := range map[string]struct{ script, text string }{
		"fails":              {"echo " + hidden + "; echo " + hidden + " >&2; exit 3", "exit status 3"},
		"no JSON":            {"echo " + hidden, "not JSON"},
		"nothing":            {"true", "not JSON"},
		"other version":      {strings.ReplaceAll(fmt.Sprintf(answer, `"cacheKeyType":"Image"`), "k8s.io/v1", "k8s.io/v1beta1"), "not a CredentialProviderResponse"},
		"other kind":         {strings.ReplaceAll(fmt.Sprintf(answer, `"cacheKeyType":"Image"`), "ProviderResponse", "ProviderRequest"), "not a CredentialProviderResponse"},
		"no cache key":       {fmt.Sprintf(answer, `"auth":{"r.example":{"username":"u","password":"`+hidden+`"}}`), "cacheKeyType"},
		"bad duration":       {fmt.Sprintf(answer, `"cacheKeyType":"Image","cacheDuration":"`+hidden+`"`), "cacheDuration"},
		"endless":            {"yes " + hidden, "longer than"},
		"killed":             {"kill -9 $$", "killed"},
		"closes early, long": {"exec 0<&-; sleep 30 & exec 1>&-; exit 4", "exit status 4"},
	} {
		cfg := plugins(t, tt.script, "r.example")
		started := time.Now()
		_, err := onePlugin(t, cfg).Lookup(t.Context(), Query{Repository: repo(t, "r.example/app"), Image: "r.example/app"})
		if err == nil || !strings.Contains(err.Error(), tt.text) || leaks(err.Error()) {
			t.Errorf("%s: %v", what, err)
		}
		if time.Since(started) > 10*time.Second {
			t.Errorf("%s: took %s", what, time.Since(started))
		}
	}
	missing := plugins(t, "", "r.example")
	missing.BinDir = t.TempDir()
	if _, err := onePlugin(t, missing).Lookup(t.Context(), Query{Image: "r.example/app"}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("missing program: %v", err)
	}
}

// A plugin that hangs is ended with everything it has started.
func TestPluginHangs(t *testing.T) {
	cfg := plugins(t, "sleep 600 &\necho $! >\"$HELPER_DIR/child\"; wait", "r.example")
	ctx, cancel := context.WithCancel(t.Context())
	child := filepath.Join(filepath.Dir(cfg.ConfigPath), "child")
	go func() {
		defer cancel()
		for range 500 {
			if data, err := os.ReadFile(child); err == nil && len(data) > 0 {
				return
			}
			<-time.After(10 * time.Millisecond)
		}
	}()
	_, err := onePlugin(t, cfg).Lookup(ctx, Query{Image: "r.example/app"})
	if err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("error %v", err)
	}
	pid, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	for range 500 {
		stat, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Error("what the plugin has started still runs")
}

func TestPluginConfig(t *testing.T) {
	const good = `{name: p, matchImages: [r.example], defaultCacheDuration: 5m, apiVersion: credentialprovider.kubelet.k8s.io/v1beta1}`
	file := func(version, providers string) string {
		return "apiVersion: kubelet.config.k8s.io/" + version + "\nkind: CredentialProviderConfig\nproviders: [" + providers + "]\n"
	}
	for _, version := range versions() {
		providers, err := parsePluginConfig([]byte(file(version, good)))
		if err != nil || len(providers) != 1 || providers[0].cacheFor != 5*time.Minute {
			t.Errorf("%s: %v %v", version, providers, err)
		}
	}
	if _, err := parsePluginConfig([]byte(`{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","unknown":1,"providers":[{"name":"p","matchImages":["*.x"],"defaultCacheDuration":"0s","apiVersion":"credentialprovider.kubelet.k8s.io/v1","new":{}}]}`)); err != nil {
		t.Errorf("JSON: %v", err)
	}
	change := func(old, replacement string) string { return file("v1", strings.Replace(good, old, replacement, 1)) }
	for what, config := range map[string]string{
		"empty":           "",
		"no YAML":         "{" + hidden,
		"a list":          "[1]",
		"other version":   file("v2", good),
		"other kind":      strings.Replace(file("v1", good), "ProviderConfig", "Provider", 1),
		"path as name":    change("name: p", "name: ../p"),
		"dots as name":    change("name: p", "name: .."),
		"space in name":   change("name: p", "name: 'p q'"),
		"no name":         change("name: p,", ""),
		"no images":       change("[r.example]", "[]"),
		"bad image":       change("r.example", "'r.example:port'"),
		"no duration":     change("defaultCacheDuration: 5m,", ""),
		"bad duration":    change("5m", "soon"),
		"below zero":      change("5m", "-5m"),
		"bad api version": change("v1beta1", "v3"),
		"bad environment": change("name: p,", "name: p, env: [{name: 'A=B', value: "+hidden+"}],"),
		"too long":        strings.Repeat(" ", maxPluginConfig+1),
		"alias bomb":      "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\nproviders: [*f,*f,*f,*f,*f,*f,*f,*f]\n",
	} {
		if got, err := parsePluginConfig([]byte(config)); err == nil || leaks(err.Error()) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"20.yaml": file("v1", strings.Replace(good, "name: p", "name: second", 1)), "10.yml": file("v1", good), "README": "no",
	} {
		write(t, filepath.Join(dir, name), 0o600, content)
	}
	log := &journal{}
	sources, err := NewPlugins(PluginConfig{ConfigPath: dir, BinDir: dir, Logger: log.logger()})
	if err != nil || len(sources) != 2 || sources[0].Name() != "plugin p" || sources[1].Name() != "plugin second" {
		t.Errorf("directory: %v %v", sources, err)
	}
	write(t, filepath.Join(dir, "30.json"), 0o600, file("v1", good))
	if _, err := NewPlugins(PluginConfig{ConfigPath: dir}); err == nil || !strings.Contains(err.Error(), "two providers") {
		t.Errorf("same name twice: %v", err)
	}
	write(t, filepath.Join(dir, "30.json"), 0o600, file("v1", strings.Replace(good, "name: p", "name: tokens, tokenAttributes: {requireServiceAccount: true}", 1)))
	if sources, err := NewPlugins(PluginConfig{ConfigPath: dir, Logger: log.logger()}); err != nil || len(sources) != 2 || !strings.Contains(log.String(), "token of a pod") {
		t.Errorf("with a token: %v %v %s", sources, err, log)
	}
	for _, path := range []string{filepath.Join(dir, "missing"), t.TempDir()} {
		if _, err := NewPlugins(PluginConfig{ConfigPath: path}); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}
