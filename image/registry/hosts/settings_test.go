package hosts_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/registry/hosts"
	"github.com/brisk-project/brisk/test/registrytest"
)

// What a file says of certificates, paths and headers is kept to.
func TestSettings(t *testing.T) {
	behind := registrytest.New(t, registrytest.Config{})
	image(t, behind, true)
	for what, c := range map[string]struct {
		prefix, path, settings string
		fails                  bool
	}{
		"certificate unknown": {prefix: "/v2", fails: true},
		"ca":                  {prefix: "/v2", settings: `ca = "ca.crt"`},
		"skip_verify":         {prefix: "/v2", settings: `skip_verify = true`},
		"path":                {prefix: "/cache/v2", path: "/cache", settings: `skip_verify = true`},
		"override_path":       {prefix: "/v2/proxy", path: "/v2/proxy", settings: "skip_verify = true\noverride_path = true"},
		"no path":             {prefix: "/elsewhere", path: "/elsewhere", settings: "skip_verify = true\noverride_path = true"},
		"may not resolve":     {prefix: "/v2", settings: "skip_verify = true\ncapabilities = [\"pull\"]", fails: true},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFront(t, behind, c.prefix, true)
			f.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
			s := newSite(t, registry.Config{})
			u, err := url.Parse(f.URL)
			if err != nil {
				t.Fatal(err)
			}
			u.Path = c.path
			s.configure("registry.invalid", table(u.String(), c.settings)+fmt.Sprintf("[host.%q.header]\nx-team = \"blue\"\n", u.String()))
			ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
			if err := os.WriteFile(filepath.Join(s.root, "registry.invalid", "ca.crt"), ca, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := s.read("registry.invalid"); (err != nil) != c.fails {
				t.Fatal(err)
			}
			for _, req := range f.requests() {
				if req.Header.Get("X-Team") != "blue" || (req.URL.Path != "/v2/" && req.URL.Query().Get("ns") != "registry.invalid") {
					t.Errorf("%s with header %q", req.URL, req.Header)
				}
			}
		})
	}
}

// A mirror sees the credentials for its own name only.
func TestMirrorCredentials(t *testing.T) {
	for label, auth := range map[string]registrytest.Auth{"basic": registrytest.AuthBasic, "token": registrytest.AuthToken} {
		t.Run(label, func(t *testing.T) {
			behind := registrytest.New(t, registrytest.Config{Auth: auth})
			image(t, behind, true)
			up := registrytest.New(t, registrytest.Config{Auth: auth})
			image(t, up, true)
			const others = "other-secret"
			up.SetPassword(others)
			f := newFront(t, behind, "/v2", false)
			own := strings.TrimPrefix(f.URL, "http://")
			for _, c := range []struct {
				what string
				keys keychain
				from *registrytest.Registry
			}{
				{"has none", keychain{up.Addr(): others}, up},
				{"has its own", keychain{up.Addr(): others, own: registrytest.Password}, behind},
			} {
				s := newSite(t, registry.Config{Keychain: c.keys})
				s.configure(up.Addr(), table(f.URL, ""))
				up.ResetRequests()
				behind.ResetRequests()
				s.requireRead(up.Addr(), c.from, nil)
			}
			for _, req := range f.requests() {
				if _, password, _ := req.BasicAuth(); password == others {
					t.Errorf("%s was shown what is for the registry", req.URL)
				}
			}
		})
	}
}

// A file that changes is noticed, and one that is broken counts as none.
func TestChanges(t *testing.T) {
	s := &site{t: t, root: t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		known := hosts.New(hosts.Config{Path: s.root, Logger: slog.New(slog.NewTextHandler(&s.log, nil))})
		list := func() string {
			var all []string
			for _, e := range known.Endpoints(t.Context(), "registry.invalid") {
				all = append(all, e.URL.String())
			}
			return strings.Join(all, " ")
		}
		for i, c := range []struct{ content, want string }{
			{"", "https://registry.invalid/v2"},
			{table("http://a.invalid", "") + table("https://b.invalid", ""), "http://a.invalid/v2 https://b.invalid/v2 https://registry.invalid/v2"},
			{table("http://c.invalid", ""), "http://c.invalid/v2 https://registry.invalid/v2"},
			{"server = \"https://d.invalid\"\n", "https://d.invalid/v2"},
			{table("http://e.invalid", "") + "header = password-in-here", ""},
			{"server = \"https://d.invalid\"\n", "https://d.invalid/v2"},
		} {
			s.configure("registry.invalid", c.content+strings.Repeat("\n", i))
			<-time.After(6 * time.Second)
			if got := list(); got != c.want {
				t.Errorf("%q: %s, want %s", c.content, got, c.want)
			}
			if first, again := known.Endpoints(t.Context(), "registry.invalid"), known.Endpoints(t.Context(), "registry.invalid"); !slices.Equal(first, again) {
				t.Errorf("%q: others at once", c.content)
			}
		}
	})
	if log := s.log.String(); !strings.Contains(log, "not TOML: line 3") || strings.Contains(log, "password") {
		t.Errorf("log %q", log)
	}
	if got := hosts.New(hosts.Config{}).Endpoints(context.WithoutCancel(t.Context()), "registry.invalid"); got != nil {
		t.Errorf("without a path: %v", got)
	}
}

func TestNames(t *testing.T) {
	s := &site{t: t, root: t.TempDir()}
	s.configure("docker.io", table("http://a.invalid", ""))
	s.configure("b.invalid:5000", "")
	known := hosts.New(hosts.Config{Path: s.root, PlainHTTP: func(host string) bool { return host == "b.invalid:5000" }})
	for host, want := range map[string]string{
		name.DefaultRegistry: "http://a.invalid/v2 docker.io true, https://registry-1.docker.io/v2  false, ",
		"b.invalid:5000":     "http://b.invalid:5000/v2  false, ",
		"c.invalid":          "",
	} {
		var all strings.Builder
		for _, e := range known.Endpoints(t.Context(), host) {
			fmt.Fprintf(&all, "%s %s %v, ", e.URL, e.Namespace, e.Mirror)
		}
		if got := all.String(); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
}
