package upkeep_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

// kinds are the registries that tests run with: with tags in place of the referrers API, and with that.
func kinds() map[string]registrytest.Config {
	return map[string]registrytest.Config{"tags": {}, "referrers": {Referrers: true}}
}

type site struct {
	*registrytest.Registry
	client *registry.Client
}

func newSite(t *testing.T, cfg registrytest.Config) site {
	t.Helper()
	c, err := registry.NewClient(registry.Config{Keychain: authn.NewMultiKeychain(), StallTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return site{registrytest.New(t, cfg), c}
}

func linux() v1.Platform { return v1.Platform{OS: "linux", Architecture: "amd64"} }
func arm() v1.Platform   { return v1.Platform{OS: "linux", Architecture: "arm64"} }

func image(t *testing.T, seed uint64, platform v1.Platform) registrytest.Image {
	t.Helper()
	layer := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(seed, 2, 50_000)...)}
	return registrytest.Image{Layers: []registrytest.Layer{layer}, Platform: platform}
}

// push pushes an image for two platforms.
func (s site) push(t *testing.T, ref string, seed uint64) block.Digest {
	t.Helper()
	return digestOf(t, s.PushIndex(t, ref, image(t, seed, linux()), image(t, seed+1000, arm())))
}

func digestOf(t *testing.T, ref name.Digest) block.Digest {
	t.Helper()
	digest, err := block.ParseDigest(ref.DigestStr())
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

func (s site) convert(t *testing.T, ref string, mode convert.Mode) *convert.Result {
	t.Helper()
	result, err := convert.Convert(t.Context(), s.client, s.Ref(t, ref), convert.Config{Mode: mode})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// trace pushes a start-up artifact of an image for this platform, as it were at a time.
func (s site) trace(t *testing.T, ref, command string, at time.Time) registry.Descriptor {
	t.Helper()
	found := s.resolve(t, ref)
	artifact, err := s.client.FindArtifact(t.Context(), found)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("a trace of " + command)
	if err := s.client.PushBlob(t.Context(), found.Name.Context(), content, registry.TraceMediaType); err != nil {
		t.Fatal(err)
	}
	startup := registry.Startup{Traces: []registry.TraceBlob{{Digest: block.Sum(content), Size: int64(len(content)), Command: command}}}
	pushed, err := s.client.PushStartup(t.Context(), found, startup, artifact.Startup, at)
	if err != nil {
		t.Fatal(err)
	}
	return pushed
}

func (s site) resolve(t *testing.T, ref string) *registry.Image {
	t.Helper()
	found, err := s.client.Resolve(t.Context(), s.Ref(t, ref), linux())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// sign gives a manifest a signature under a tag, as cosign does, and one that refers to it. It returns the latter.
func (s site) sign(t *testing.T, repository string, digest block.Digest, seed uint64) name.Digest {
	t.Helper()
	payload := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(seed, 1, 1000)...)}
	s.PushArtifact(t, repository+":sha256-"+digest.Hex()+".sig", "application/vnd.dev.cosign.artifact.sig.v1+json", payload)
	subject := s.Describe(t, s.Repository(t, repository).Digest(digest.String()), nil)
	return s.PushReferrer(t, repository, "application/vnd.dev.sigstore.bundle.v0.3+json", subject, payload)
}

func (s site) tags(t *testing.T, repository string) []string {
	t.Helper()
	tags, err := s.client.Tags(t.Context(), s.Repository(t, repository))
	if err != nil && !errors.Is(err, block.ErrNotFound) {
		t.Fatal(err)
	}
	slices.Sort(tags)
	return tags
}

// has reports whether a manifest is there.
func (s site) has(t *testing.T, repository string, digest block.Digest) bool {
	t.Helper()
	there, err := s.client.HasManifest(t.Context(), s.Repository(t, repository).Digest(digest.String()), digest)
	if err != nil {
		t.Fatal(err)
	}
	return there
}

// requireConverted checks that an image has a complete index, or none.
func (s site) requireConverted(t *testing.T, ref string, want bool) {
	t.Helper()
	found := s.resolve(t, ref)
	artifact, err := s.client.FindArtifact(t.Context(), found)
	if !want {
		if !errors.Is(err, registry.ErrNoArtifact) {
			t.Errorf("%s has an index: %v", ref, err)
		}
		return
	}
	if err != nil {
		t.Errorf("%s: %v", ref, err)
		return
	}
	if _, err := s.client.LayerIndexes(t.Context(), found, artifact); err != nil {
		t.Errorf("%s: %v", ref, err)
	}
}

// requireUntouched checks that nothing was written.
func (s site) requireUntouched(t *testing.T) {
	t.Helper()
	for _, request := range s.Requests() {
		if request.Write() {
			t.Errorf("the registry was changed: %s %s", request.Method, request.Path)
		}
	}
}

func withSuffix(tags []string, suffix string) []string {
	return slices.DeleteFunc(slices.Clone(tags), func(tag string) bool { return !strings.HasSuffix(tag, suffix) })
}
