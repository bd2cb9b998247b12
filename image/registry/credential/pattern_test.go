package credential

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The rules are those of kubelet for matchImages.
func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		pattern, image string
		want           bool
	}{
		{"registry.io", "registry.io/app", true},
		{"registry.io", "other.io/app", false},
		{"123.dkr.ecr.*.amazonaws.com", "123.dkr.ecr.us-east-1.amazonaws.com/app", true},
		{"*.dkr.ecr.*.amazonaws.com", "123.dkr.ecr.us-east-1.amazonaws.com/app", true},
		{"*.dkr.ecr.*.amazonaws.com.cn", "123.dkr.ecr.us-east-1.amazonaws.com/app", false},
		{"*.io", "registry.io/app", true},
		{"*.io", "a.registry.io/app", false}, // one wildcard is one label
		{"*.*.registry.io", "a.b.registry.io/app", true},
		{"app*.k8s.io", "app1.k8s.io/x", true},
		{"app*.k8s.io", "other.k8s.io/x", false},
		{"k8s.*", "k8s.io/x", true},
		{"*", "localhost/x", true},
		{"*", "registry.io/x", false},
		{"registry.io:8080", "registry.io:8080/app", true},
		{"registry.io:8080", "registry.io/app", false},
		{"registry.io", "registry.io:8080/app", false},
		{"*.io:8080", "registry.io:8080/app", true},
		{"registry.io/team", "registry.io/team/app", true},
		{"registry.io/team", "registry.io/teamwork/app", true}, // a prefix, not an element
		{"registry.io/team/", "registry.io/teamwork/app", false},
		{"registry.io/team", "registry.io/other/app", false},
		{"registry.io/*/app", "registry.io/team/app", false}, // no wildcards in paths
		{"registry.io:8080/path", "registry.io:8080/path/app", true},
		{"[::1]:5000", "[::1]:5000/app", true},
		{"docker.io", "docker.io/library/nginx", true},
		{"[", "registry.io/app", false},
		{"%zz", "registry.io/app", false},
		{"registry.io:port", "registry.io/app", false},
		{"", "registry.io/app", false},
		{strings.Repeat("a", maxPattern+1), "registry.io/app", false},
	} {
		at, err := parsePlace(tt.image)
		if err != nil {
			t.Fatal(err)
		}
		if got := matches(tt.pattern, at); got != tt.want {
			t.Errorf("%q and %q: %t, want %t", tt.pattern, tt.image, got, tt.want)
		}
	}
}

func TestImageName(t *testing.T) {
	for in, want := range map[string]string{
		"nginx":                  "docker.io/library/nginx",
		"team/app":               "docker.io/team/app",
		"quay.io/coreos/etcd":    "quay.io/coreos/etcd",
		"localhost:5000/app":     "localhost:5000/app",
		"index.docker.io/team/x": "docker.io/team/x",
	} {
		if got := imageName(repo(t, in)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// The keys are what people write into Docker configurations.
func TestKeyring(t *testing.T) {
	keys := keyring{}
	for _, key := range []string{
		"https://index.docker.io/v1/", "https://quay.io/v2/", "quay.io/coreos", "http://plain.example:5000", "*.azurecr.io", "gcr.io/project/", "https://old.example/v1/",
	} {
		keys.add(key, basic(t, key, "x"))
	}
	for image, want := range map[string][]string{
		"docker.io/library/nginx":    {"https://index.docker.io/v1/"},
		"quay.io/coreos/etcd":        {"quay.io/coreos", "https://quay.io/v2/"}, // the longer first
		"quay.io/other/etcd":         {"https://quay.io/v2/"},
		"plain.example:5000/app":     {"http://plain.example:5000"},
		"my.azurecr.io/app":          {"*.azurecr.io"},
		"gcr.io/project/app":         {"gcr.io/project/"},
		"gcr.io/projects/app":        nil,
		"old.example/app":            {"https://old.example/v1/"},
		"elsewhere.example/app":      nil,
		"index.docker.io/evil/nginx": {"https://index.docker.io/v1/"},
	} {
		var got []string
		for _, s := range keys.find(image) {
			got = append(got, s.reveal().Username)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", image, diff)
		}
	}
}
