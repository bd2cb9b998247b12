package config_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/signature/signaturetest"
	nodeconfig "github.com/brisk-project/brisk/node/config"
	"github.com/brisk-project/brisk/node/trust"
)

func TestTrustRules(t *testing.T) {
	pem, err := os.ReadFile(signaturetest.NewPair(t).Public)
	if err != nil {
		t.Fatal(err)
	}
	key := strings.ReplaceAll(string(pem), "\n", "\n    ")
	cfg, err := nodeconfig.Parse([]byte(header + `
index:
  trust: signed
  keys:
  - |
    ` + key + `
  rules:
  - {repositories: [registry.example.com/open/**], trust: any}
  - {repositories: ["*/a", b], trust: signed, keys: [/keys/a.pub, /keys/b.pub]}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []trust.Rule{
		{Repositories: []string{"registry.example.com/open/**"}, Keys: []string{}},
		{Repositories: []string{"*/a", "b"}, Signed: true, Keys: []string{"/keys/a.pub", "/keys/b.pub"}},
		{Repositories: []string{"**"}, Signed: true, Keys: []string{string(pem)}},
	}
	if diff := cmp.Diff(want, cfg.Index.TrustRules()); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsOfTrust(t *testing.T) {
	for content, want := range map[string]string{
		"index: {trust: all}":                                            `index.trust: "all" is not one of any, signed`,
		"index: {trust: signed}":                                         "index.keys: with trust signed there must be at least one",
		"index: {keys: [/a]}":                                            "index.keys: keys are only of use with trust signed",
		"index: {trust: signed, keys: [a.pub]}":                          `index.keys[0]: "a.pub" is not an absolute path`,
		"index: {trust: signed, keys: ['-----BEGIN X']}":                 "index.keys[0]: invalid signature data",
		"index: {rules: [{trust: any}]}":                                 "index.rules[0].repositories: there is none",
		"index: {rules: [{repositories: [a], trust: signed}]}":           "index.rules[0].keys",
		"index: {rules: [{repositories: [a, '[']}]}":                     "index.rules[0].trust",
		"index: {rules: [{repositories: [a, 'b/['], trust: any}]}":       "index.rules[0].repositories[1]",
		"index: {rules: [{repositories: ['a**'], trust: any, name: b}]}": "name",
	} {
		if _, err := nodeconfig.Parse([]byte(header + content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", content, err, want)
		}
	}
}
