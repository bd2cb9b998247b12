package credential

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
)

func FuzzResponse(f *testing.F) {
	f.Add([]byte(`{"kind":"CredentialProviderResponse","apiVersion":"v","cacheKeyType":"Image","cacheDuration":"1h","auth":{"*.example":{"username":"u","password":"p"}}}`))
	f.Add([]byte(`{"kind":"CredentialProviderResponse","apiVersion":"v","cacheKeyType":"Global","auth":null}`))
	f.Add([]byte(`{"kind":"CredentialProviderResponse","apiVersion":"v","cacheKeyType":"Registry","cacheDuration":"-1ns","auth":{"[::1]:5":{},"":{}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseResponse(data, "v")
		if err != nil {
			return
		}
		if len(r.keys) > maxAuths {
			t.Errorf("%d patterns", len(r.keys))
		}
		r.keys.find("r.example:5000/team/app")
		r.keys.find("docker.io/library/app")
	})
}

func FuzzPluginConfig(f *testing.F) {
	f.Add([]byte("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders: [{name: p, matchImages: ['*.example:5/x'], defaultCacheDuration: 5m, apiVersion: credentialprovider.kubelet.k8s.io/v1, args: [a], env: [{name: A, value: b}], tokenAttributes: {requireServiceAccount: false}}]\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte(`{"apiVersion":"kubelet.config.k8s.io/v1alpha1","kind":"CredentialProviderConfig","providers":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		providers, err := parsePluginConfig(data)
		if err != nil {
			return
		}
		for _, p := range providers {
			if filepath.Join("dir", p.Name) != "dir/"+p.Name || filepath.Dir(filepath.Join("dir", p.Name)) != "dir" {
				t.Errorf("name %q leaves the directory", p.Name)
			}
			p.matches("r.example/app")
			p.needsToken()
		}
	})
}

func FuzzDockerConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"r.example:5000/team":{"username":"u","password":"p"},"x":{"identitytoken":"t"}}}`))
	f.Add([]byte(`{"r.example":{"auth":"dTpw","email":"e"}}`))
	f.Add([]byte(`{"auths":null,"credsStore":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, unusable, err := parseDockerConfig(data)
		if err != nil {
			return
		}
		if unusable < 0 || len(keys) > maxAuths {
			t.Errorf("%d keys, %d unusable", len(keys), unusable)
		}
		keys.find("r.example:5000/team/app")
	})
}

func FuzzSealed(f *testing.F) {
	key := bytes.Repeat([]byte{7}, keySize)
	for _, content := range []string{
		`{"repositories":[{"name":"r.example/app","lease":{"username":"u","password":"p","source":"s","expires":"2030-01-01T00:00:00Z"},"captured":[{"identityToken":"t"}]}]}`,
		`{"repositories":[{"name":"BAD"},{"name":"localhost/app","insecure":true,"captured":[{},{},{},{},{},{}]}]}`, ``,
	} {
		sealed, err := seal(key, []byte(content))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed, []byte(content))
	}
	f.Fuzz(func(t *testing.T, sealed, content []byte) {
		if data, err := unseal(key, sealed); err == nil {
			if _, err := decode(data); err != nil {
				t.Logf("sealed nonsense: %v", err)
			}
		}
		repos, err := decode(content)
		if err != nil {
			return
		}
		for _, r := range repos {
			if _, err := name.NewRepository(r.name.String()); err != nil || len(r.captured) > maxCaptured {
				t.Errorf("%s: %v", r.name, err)
			}
		}
		again, err := seal(key, content)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := unseal(key, again); err != nil || !bytes.Equal(back, content) {
			t.Errorf("unsealed %q, %v", back, err)
		}
	})
}
