package signature

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

// FuzzPayload parses payloads: one that is accepted names the digest.
func FuzzPayload(f *testing.F) {
	repo, err := name.NewRepository("registry.example.com/app")
	if err != nil {
		f.Fatal(err)
	}
	digest := block.Sum([]byte("artifact"))
	good, err := newPayload(repo, digest)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(strings.ReplaceAll(string(good), "sha256", "SHA256")))
	f.Add([]byte(`{"critical":{"image":{"docker-manifest-digest":1},"type":[]}}`))
	f.Add([]byte(strings.Repeat("[", 10000)))
	f.Fuzz(func(t *testing.T, content []byte) {
		err := checkPayload(content, digest)
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("error without a kind: %v", err)
		}
		// A character may be escaped.
		named := strings.Contains(string(content), digest.String()) || strings.Contains(string(content), `\u`)
		if err == nil && (len(content) > MaxPayload || !named) {
			t.Fatalf("accepted: %q", content)
		}
	})
}
