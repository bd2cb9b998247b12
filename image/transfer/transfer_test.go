package transfer_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/transfer"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

func newClient(t *testing.T) *registry.Client {
	t.Helper()
	c, err := registry.NewClient(registry.Config{Keychain: registrytest.Keychain(registrytest.User), StallTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func linux() v1.Platform { return v1.Platform{OS: "linux", Architecture: "amd64"} }
func arm() v1.Platform   { return v1.Platform{OS: "linux", Architecture: "arm64"} }

func layer(t *testing.T, seed uint64) registrytest.Layer {
	t.Helper()
	return registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(seed, 2, 100_000)...)}
}

// pushAll pushes an image for two platforms with an attestation, converts it, and gives it a trace and
// signatures: of the image under a tag, of the index artifact as a referrer.
func pushAll(t *testing.T, r *registrytest.Registry, c *registry.Client) {
	t.Helper()
	r.PushIndex(t, "team/app:v1", registrytest.Image{Layers: []registrytest.Layer{layer(t, 1), layer(t, 2)}},
		registrytest.Image{Layers: []registrytest.Layer{layer(t, 1), layer(t, 3)}, Platform: arm()},
		registrytest.Image{Layers: []registrytest.Layer{layer(t, 4)}, Platform: v1.Platform{OS: "unknown", Architecture: "unknown"}})
	ref := r.Ref(t, "team/app:v1")
	result, err := convert.Convert(t.Context(), c, ref, convert.Config{})
	if err != nil {
		t.Fatal(err)
	}
	image, err := c.Resolve(t.Context(), ref, linux())
	if err != nil {
		t.Fatal(err)
	}
	trace := []byte("a trace")
	if err := c.PushBlob(t.Context(), ref.Context(), trace, registry.TraceMediaType); err != nil {
		t.Fatal(err)
	}
	startup := registry.Startup{Traces: []registry.TraceBlob{{Digest: block.Sum(trace), Size: int64(len(trace)), Command: "x"}}}
	if _, err := c.PushStartup(t.Context(), image, startup, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	r.PushArtifact(t, "team/app:sha256-"+image.Digest.Hex()+".sig", "application/vnd.dev.cosign.artifact.sig.v1+json", layer(t, 5))
	artifact := r.Describe(t, r.Repository(t, "team/app").Digest(result.Platforms[0].Artifact.String()), nil)
	r.PushReferrer(t, "team/app", "application/vnd.example.signature", artifact, layer(t, 6))
}

// A copy has everything: both platforms resolve to the same digests, with index and trace, through
// referrers and tag; attestation and signatures are there. A second copy writes nothing.
func TestCopyIsComplete(t *testing.T) {
	for _, kind := range []registrytest.Config{{}, {Referrers: true}, {Auth: registrytest.AuthToken}} {
		from, to := registrytest.New(t, kind), registrytest.New(t, registrytest.Config{Referrers: !kind.Referrers})
		c := newClient(t)
		pushAll(t, from, c)
		src, dst := from.Ref(t, "team/app:v1"), to.Ref(t, "other/app:v2")
		result, err := transfer.Copy(t.Context(), c, src, dst, transfer.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for _, platform := range []v1.Platform{linux(), arm()} {
			checkSame(t, c, from, to, platform)
		}
		for _, ref := range []string{"v1", "v1_accelerated"} {
			want := from.Manifest(t, "team/app:"+ref)
			if got := to.Manifest(t, "other/app:"+strings.Replace(ref, "v1", "v2", 1)); string(got) != string(want) {
				t.Errorf("%s differs", ref)
			}
		}
		if result.Referrers < 4 || len(result.Tags) < 3 || len(result.Missing) != 0 {
			t.Errorf("result %+v", result)
		}
		to.ResetRequests()
		if _, err := transfer.Copy(t.Context(), c, src, dst, transfer.Config{}); err != nil {
			t.Fatal(err)
		}
		for _, request := range to.Requests() {
			if request.Write() && !strings.Contains(request.Path, "/manifests/sha256:") {
				t.Errorf("the second copy wrote: %s %s", request.Method, request.Path)
			}
		}
	}
}

// checkSame compares what two registries have of a platform.
func checkSame(t *testing.T, c *registry.Client, from, to *registrytest.Registry, platform v1.Platform) {
	t.Helper()
	var found []*registry.Artifact
	for _, ref := range []string{from.Ref(t, "team/app:v1").String(), to.Ref(t, "other/app:v2").String()} {
		parsed, err := c.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		image, err := c.Resolve(t.Context(), parsed, platform)
		if err != nil {
			t.Fatal(err)
		}
		byDigest, err := c.ParseReference(parsed.Context().Digest(image.Digest.String()).String())
		if err != nil {
			t.Fatal(err)
		}
		if image, err = c.Resolve(t.Context(), byDigest, platform); err != nil {
			t.Fatal(err)
		}
		artifact, err := c.FindArtifact(t.Context(), image) // by referrers: a digest has no tag
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.LayerIndexes(t.Context(), image, artifact); err != nil {
			t.Fatal(err)
		}
		found = append(found, artifact)
	}
	if found[0].Digest != found[1].Digest || (found[0].Startup == nil) != (found[1].Startup == nil) {
		t.Errorf("for %s: artifact %+v, copied %+v", registry.FormatPlatform(platform), found[0], found[1])
	}
	if found[0].Startup != nil && found[0].Startup.Digest != found[1].Startup.Digest {
		t.Error("the traces differ")
	}
	repository := to.Repository(t, "other/app")
	signatures, err := c.Referrers(t.Context(), repository, found[1].Digest)
	if platform.Architecture == "amd64" && (err != nil || len(signatures) != 1) {
		t.Errorf("signatures of the index: %v, %v", signatures, err)
	}
}

// Within a registry blobs are mounted: not one is read or sent.
func TestCopyMounts(t *testing.T) {
	for _, auth := range []registrytest.Auth{registrytest.AuthNone, registrytest.AuthToken} {
		r := registrytest.New(t, registrytest.Config{Auth: auth})
		c := newClient(t)
		pushAll(t, r, c)
		r.ResetRequests()
		if _, err := transfer.Copy(t.Context(), c, r.Ref(t, "team/app:v1"), r.Ref(t, "other/app:v1"), transfer.Config{}); err != nil {
			t.Fatal(err)
		}
		mounts := 0
		for _, request := range r.Requests() {
			switch {
			case request.Method == http.MethodPost && request.Status == http.StatusCreated:
				mounts++
			case request.Method == http.MethodPatch, request.Method == http.MethodPut && strings.Contains(request.Path, "/blobs/"):
				t.Errorf("a blob was sent: %s", request.Path)
			}
		}
		if reads := r.BlobRequests(); len(reads) != 0 {
			t.Errorf("%d blobs were read", len(reads))
		}
		if mounts < 6 {
			t.Errorf("%d blobs were mounted", mounts)
		}
	}
}

// A copy that fails leaves no tag, and the next one goes on.
func TestCopyGoesOn(t *testing.T) {
	from, to := registrytest.New(t, registrytest.Config{}), registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	pushAll(t, from, c)
	last := block.Sum(registrytest.Compress(t, layer(t, 3))).String()
	from.Inject(registrytest.Rule{Fault: registrytest.Status(http.StatusForbidden), Match: registrytest.Blob(last)})
	src, dst := from.Ref(t, "team/app:v1"), to.Ref(t, "app:v1")
	if _, err := transfer.Copy(t.Context(), c, src, dst, transfer.Config{}); !errors.Is(err, registry.ErrDenied) || !strings.Contains(err.Error(), last) {
		t.Errorf("a layer that may not be read: %v", err)
	}
	if _, err := c.ReadManifest(t.Context(), dst); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("the failed copy left a tag: %v", err)
	}
	from.ClearFaults()
	from.ResetRequests()
	if _, err := transfer.Copy(t.Context(), c, src, dst, transfer.Config{}); err != nil {
		t.Fatal(err)
	}
	first := block.Sum(registrytest.Compress(t, layer(t, 1))).String()
	for _, request := range from.BlobRequests() {
		if strings.HasSuffix(request.Path, first) {
			t.Error("a layer that was there was read again")
		}
	}
}

// What an image index lists and its repository does not have is reported.
func TestCopyErrors(t *testing.T) {
	from, to := registrytest.New(t, registrytest.Config{Referrers: true}), registrytest.New(t, registrytest.Config{})
	c := newClient(t)
	pushed := from.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{layer(t, 1)}})
	if _, err := transfer.Copy(t.Context(), c, from.Ref(t, "app:none"), to.Ref(t, "app:v1"), transfer.Config{}); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
	other := to.Repository(t, "app").Digest("sha256:" + strings.Repeat("0", 64))
	if _, err := transfer.Copy(t.Context(), c, pushed, other, transfer.Config{}); err == nil || !strings.Contains(err.Error(), "not that of the destination") {
		t.Errorf("another digest: %v", err)
	}
	same := to.Repository(t, "app").Digest(pushed.DigestStr())
	if _, err := transfer.Copy(t.Context(), c, pushed, same, transfer.Config{}); err != nil {
		t.Errorf("by digest: %v", err)
	}
}
