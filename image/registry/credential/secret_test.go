package credential

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"go.yaml.in/yaml/v3"
)

// Whatever holds a secret shows nothing of it, however it is printed.
func TestSecretsAreNotPrinted(t *testing.T) {
	s := basic(t, hidden, hidden)
	token, err := NewSecret(authn.AuthConfig{IdentityToken: hidden, RegistryToken: hidden})
	if err != nil {
		t.Fatal(err)
	}
	store := open(t, Config{Path: t.TempDir() + "/sealed"})
	if err := store.Capture(repo(t, "r.example/app"), authn.AuthConfig{Username: hidden, Password: hidden}); err != nil {
		t.Fatal(err)
	}
	c, err := store.Current(t.Context(), repo(t, "r.example/app"))
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{
		"secret": s, "pointer": &s, "token": token, "answer": Answer{Secret: s, Expires: time.Now()},
		"answers": []Answer{{Secret: s}}, "map": map[string]Secret{"a": s}, "credential": c, "authenticator": c.Auth,
		"lease": lease{secret: s, source: "x"}, "keyring": keyring{"a": {s}}, "status": store.Status(),
		"kept": cachedSecretOf(s), "kept pointer": &cachedSecret{Password: hidden}, "docker": dockerAuth{Password: hidden},
		"repository": cachedRepository{Lease: cachedSecret{Password: hidden}},
	}
	for what, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
			if got := fmt.Sprintf(verb, v); leaks(got) {
				t.Errorf("%s with %s: %s", what, verb, got)
			}
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
		if what != "kept" && what != "kept pointer" && what != "repository" && what != "docker" && leaks(log.String()) {
			t.Errorf("%s in a log: %s", what, log.String())
		}
	}
	for _, v := range []any{s, &s, Answer{Secret: s}, map[Secret]int{s: 1}, c} {
		if out, err := json.Marshal(v); err == nil && leaks(string(out)) {
			t.Errorf("JSON of %T: %s", v, out)
		}
		if out, err := yaml.Marshal(v); err == nil && leaks(string(out)) {
			t.Errorf("YAML of %T: %s", v, out)
		}
	}
	if out, err := xml.Marshal(s); err == nil && leaks(string(out)) {
		t.Errorf("XML: %s", out)
	}
}

// leaks reports whether text has the hidden word in any of the usual forms.
func leaks(text string) bool {
	return strings.Contains(text, hidden) ||
		strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", hidden)) ||
		strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(hidden))) ||
		strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(hidden+":"+hidden)))
}

func TestNewSecret(t *testing.T) {
	encoded := base64.StdEncoding.EncodeToString([]byte("user:pass:word"))
	for what, tt := range map[string]struct {
		in   authn.AuthConfig
		want string // "" for an error
	}{
		"user and password": {authn.AuthConfig{Username: "user", Password: "pass:word"}, "user:pass:word"},
		"auth":              {authn.AuthConfig{Auth: encoded}, "user:pass:word"},
		"auth, padding off": {authn.AuthConfig{Auth: strings.TrimRight(encoded, "=")}, "user:pass:word"},
		"both":              {authn.AuthConfig{Username: "user", Password: "pass:word", Auth: "?"}, "user:pass:word"},
		"identity token":    {authn.AuthConfig{IdentityToken: "it"}, ":it"},
		"registry token":    {authn.AuthConfig{RegistryToken: "rt"}, ":rt"},
		"nothing":           {authn.AuthConfig{}, ":"},
		"no base64":         {authn.AuthConfig{Auth: hidden + "?"}, ""},
		"no colon":          {authn.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte(hidden))}, ""},
		"long":              {authn.AuthConfig{Password: strings.Repeat(hidden, maxSecret)}, ""},
	} {
		s, err := NewSecret(tt.in)
		switch {
		case err != nil && leaks(err.Error()):
			t.Errorf("%s: the error tells: %v", what, err)
		case (err != nil) != (tt.want == ""):
			t.Errorf("%s: error %v", what, err)
		case err == nil && shown(t, s) != tt.want:
			t.Errorf("%s: %s, want %s", what, shown(t, s), tt.want)
		}
	}
	if !(Secret{}).Anonymous() || basic(t, "a", "b").Anonymous() {
		t.Error("anonymous is not told from a secret")
	}
}
