package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/image/signature/signaturetest"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// trusting requires signatures by keys that a test may change.
type trusting struct {
	keys atomic.Pointer[[]*signature.Key]
}

// Keys implements [registry.Trust].
func (t *trusting) Keys(name.Repository) ([]*signature.Key, bool) { return *t.keys.Load(), true }

func trust(keys ...*signature.Key) *trusting {
	t := &trusting{}
	t.keys.Store(&keys)
	return t
}

// findWith finds the artifact of the image as a node does that requires signatures.
func (a accelerated) findWith(t *testing.T, trusted registry.Trust) (*registry.Artifact, error) {
	t.Helper()
	c := newClient(t, registry.Config{Trust: trusted})
	image, err := c.Resolve(t.Context(), a.image.Name, linux())
	if err != nil {
		t.Fatal(err)
	}
	return c.FindArtifact(t.Context(), image)
}

func (a accelerated) sign(t *testing.T, digest block.Digest, pair signaturetest.Pair) {
	t.Helper()
	if added, err := a.client.Sign(t.Context(), a.image.Name.Context(), digest, pair.Signer); err != nil || !added {
		t.Fatalf("signing: added %t, %v", added, err)
	}
}

// editSignatures changes the manifest with the signatures of an artifact.
func (a accelerated) editSignatures(t *testing.T, digest block.Digest, change func(m *v1.Manifest)) {
	t.Helper()
	tag := signature.Tag(a.image.Name.Context(), digest)
	got, err := a.client.ReadManifest(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(got.Content, &m); err != nil {
		t.Fatal(err)
	}
	change(&m)
	content, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.client.PutManifest(t.Context(), tag, &registry.Manifest{MediaType: types.OCIManifestSchema1, Content: content}); err != nil {
		t.Fatal(err)
	}
}

func requireUntrusted(t *testing.T, what string, found *registry.Artifact, err error) {
	t.Helper()
	if !errors.Is(err, registry.ErrUntrusted) || errors.Is(err, registry.ErrNoArtifact) {
		t.Errorf("%s: found %v, %v", what, found, err)
	}
}

// Only an artifact with a signature by one of the keys is used, while keys are rotated too.
func TestSignedArtifactsAreUsed(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		t.Run(fmt.Sprintf("referrers=%t", referrers), func(t *testing.T) {
			a := accelerate(t, registrytest.New(t, registrytest.Config{Referrers: referrers}))
			digest := a.find(t, a.image.Name).Digest
			old, next := signaturetest.NewPair(t), signaturetest.NewPair(t)
			found, err := a.findWith(t, trust(old.Key))
			requireUntrusted(t, "unsigned", found, err)
			a.sign(t, digest, old)
			found, err = a.findWith(t, trust(next.Key))
			requireUntrusted(t, "signed by another key", found, err)
			found, err = a.findWith(t, trust())
			requireUntrusted(t, "without keys", found, err)
			for _, keys := range [][]*signature.Key{{old.Key}, {next.Key, old.Key}} {
				found, err = a.findWith(t, trust(keys...))
				if err != nil || found.Digest != digest || found.Signature == nil {
					t.Fatalf("signed: %v, %v", found, err)
				}
			}
			a.sign(t, digest, next)
			for _, keys := range [][]*signature.Key{{old.Key}, {next.Key}} {
				if found, err = a.findWith(t, trust(keys...)); err != nil || found.Digest != digest {
					t.Errorf("signed by both: %v, %v", found, err)
				}
			}
			// What the node has kept of it counts as long as the key does.
			trusted := trust(next.Key)
			c := newClient(t, registry.Config{Trust: trusted})
			repo := a.image.Name.Context()
			if err := c.CheckSignature(repo, digest, found.Signature); err != nil {
				t.Errorf("kept: %v", err)
			}
			for _, none := range []error{
				c.CheckSignature(repo, digest, nil), c.CheckSignature(repo, block.Sum([]byte("other")), found.Signature),
			} {
				requireUntrusted(t, "kept for something else", nil, none)
			}
			trusted.keys.Store(&[]*signature.Key{old.Key})
			requireUntrusted(t, "kept, with a key that has been removed", nil, c.CheckSignature(repo, digest, found.Signature))
			if err := a.client.CheckSignature(repo, digest, nil); err != nil {
				t.Errorf("where no signature is required: %v", err)
			}
		})
	}
}

// An artifact that anyone has pushed, and that would be better, does not keep nodes from one that
// is signed.
func TestUnsignedArtifactHidesNothing(t *testing.T) {
	a := accelerate(t, registrytest.New(t, registrytest.Config{Referrers: true}))
	pair := signaturetest.NewPair(t)
	signed := a.find(t, a.image.Name).Digest
	a.sign(t, signed, pair)
	better, err := registry.EncodeArtifact(a.image.Descriptor, []registry.IndexBlob{{
		Layer: a.image.Layers[0].Digest, DiffID: a.image.Layers[0].DiffID, Digest: block.Sum([]byte("x")), Size: 1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.client.PushArtifact(t.Context(), a.image.Name.Context(), better); err != nil {
		t.Fatal(err)
	}
	if got := a.find(t, a.image.Name); got.Digest != block.Sum(better) {
		t.Fatalf("without signatures %s is found", got.Digest)
	}
	if got, err := a.findWith(t, trust(pair.Key)); err != nil || got.Digest != signed {
		t.Errorf("found %v, %v", got, err)
	}
}

// A start-up artifact counts only if it is signed itself. An older one that is signed stands in.
func TestUnsignedStartupIsNotUsed(t *testing.T) {
	a := accelerate(t, registrytest.New(t, registrytest.Config{Referrers: true}))
	pair := signaturetest.NewPair(t)
	a.sign(t, a.find(t, a.image.Name).Digest, pair)
	now := time.Now()
	first := a.push(t, "first", nil, now)
	if got, err := a.findWith(t, trust(pair.Key)); err != nil || got.Startup != nil {
		t.Errorf("unsigned: %q, %v", commands(got), err)
	}
	a.sign(t, first.Digest, pair)
	if got, err := a.findWith(t, trust(pair.Key)); err != nil || commands(got) != "first" || got.Startup.Signature == nil {
		t.Errorf("signed: %v", err)
	}
	a.push(t, "second", nil, now.Add(time.Minute))
	if got := a.find(t, a.image.Name); commands(got) != "second" {
		t.Fatalf("without signatures %q is found", commands(got))
	}
	if got, err := a.findWith(t, trust(pair.Key)); err != nil || commands(got) != "first" {
		t.Errorf("with an unsigned one that is newer: %q, %v", commands(got), err)
	}
}

// The signature of another artifact, copied under the tag of this one.
func TestReplayedSignatureIsNone(t *testing.T) {
	a := accelerate(t, registrytest.New(t, registrytest.Config{}))
	pair := signaturetest.NewPair(t)
	startup := a.push(t, "app", nil, time.Now())
	a.sign(t, startup.Digest, pair)
	got, err := a.client.ReadManifest(t.Context(), signature.Tag(a.image.Name.Context(), startup.Digest))
	if err != nil {
		t.Fatal(err)
	}
	digest := a.find(t, a.image.Name).Digest
	if err := a.client.PutManifest(t.Context(), signature.Tag(a.image.Name.Context(), digest), got); err != nil {
		t.Fatal(err)
	}
	found, err := a.findWith(t, trust(pair.Key))
	requireUntrusted(t, "replayed", found, err)
}

// Payloads of other tools are blobs of their own: damaged, missing and huge ones are no signatures,
// and keep none from being found.
func TestDamagedPayloads(t *testing.T) {
	a := accelerate(t, registrytest.New(t, registrytest.Config{Referrers: true}))
	pair := signaturetest.NewPair(t)
	digest := a.find(t, a.image.Name).Digest
	a.sign(t, digest, pair)
	damaged := func(hex string, size int64) v1.Descriptor {
		return v1.Descriptor{
			MediaType: signature.PayloadMediaType, Size: size, Digest: v1.Hash{Algorithm: "sha256", Hex: hex},
			Annotations: map[string]string{signature.Annotation: "AAAA"},
		}
	}
	content := []byte("no payload")
	if err := a.client.PushBlob(t.Context(), a.image.Name.Context(), content, signature.PayloadMediaType); err != nil {
		t.Fatal(err)
	}
	bad := []v1.Descriptor{
		damaged(block.Sum([]byte("missing")).Hex(), 100), damaged(block.Sum(content).Hex(), int64(len(content))),
		damaged(block.Sum(content).Hex(), 5), damaged(block.Sum([]byte("huge")).Hex(), 8<<30), damaged("nonsense", 7),
	}
	a.editSignatures(t, digest, func(m *v1.Manifest) {
		own := m.Layers[0]
		own.Data = nil
		m.Layers = append(slices.Repeat(bad, 200), own)
		m.Layers = append(m.Layers, bad...)
	})
	if found, err := a.findWith(t, trust(pair.Key)); err != nil || found.Digest != digest {
		t.Errorf("before a thousand: %v, %v", found, err)
	}
	for _, content := range []string{"{}", "[]", `{"layers":{}}`} {
		tag := signature.Tag(a.image.Name.Context(), digest)
		a.registry.Inject(registrytest.Rule{
			Match: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/manifests/"+tag.TagStr()) },
			Fault: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
				fmt.Fprint(w, content) //nolint:errcheck // the client says so
			},
		})
		a.registry.Inject(registrytest.Rule{
			Match: func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/referrers/"+digest.String()) },
			Fault: registrytest.Status(http.StatusNotFound),
		})
		found, err := a.findWith(t, trust(pair.Key))
		requireUntrusted(t, content, found, err)
		a.registry.ClearFaults()
	}
}

// Signatures that are only among the referrers, as cosign stores them on request, count too.
func TestSignatureAmongReferrers(t *testing.T) {
	a := accelerate(t, registrytest.New(t, registrytest.Config{Referrers: true}))
	pair := signaturetest.NewPair(t)
	digest := a.find(t, a.image.Name).Digest
	a.sign(t, digest, pair)
	a.registry.Inject(registrytest.Rule{
		Match: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, ".sig") },
		Fault: registrytest.Status(http.StatusNotFound),
	})
	if found, err := a.findWith(t, trust(pair.Key)); err != nil || found.Digest != digest {
		t.Errorf("found %v, %v", found, err)
	}
}

// A registry that never answers for the referrers of an artifact does not delay what has its
// signature under the tag.
func TestSignatureDoesNotWaitForReferrers(t *testing.T) {
	a := accelerate(t, registrytest.New(t, registrytest.Config{Referrers: true}))
	pair := signaturetest.NewPair(t)
	digest := a.find(t, a.image.Name).Digest
	a.sign(t, digest, pair)
	a.registry.Inject(registrytest.Rule{
		Match: func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/referrers/"+digest.String()) },
		Fault: func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() },
	})
	began := time.Now()
	if found, err := a.findWith(t, trust(pair.Key)); err != nil || found.Digest != digest || time.Since(began) > 5*time.Second {
		t.Errorf("found %v, %v after %s", found, err, time.Since(began))
	}
}

// The signature is asked for together with the manifest that it is for.
func TestSignatureCostsNoRoundTrip(t *testing.T) {
	a := accelerate(t, registrytest.New(t, registrytest.Config{Referrers: true}))
	pair := signaturetest.NewPair(t)
	digest := a.find(t, a.image.Name).Digest
	a.sign(t, digest, pair)
	var waiting atomic.Int32
	both := make(chan struct{})
	meet := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if waiting.Add(1) == 2 {
			close(both)
		}
		select {
		case <-both:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}
	for _, suffix := range []string{"/manifests/" + digest.String(), "/manifests/sha256-" + digest.Hex() + ".sig"} {
		a.registry.Inject(registrytest.Rule{Match: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, suffix) }, Fault: meet})
	}
	before := len(a.registry.Requests())
	if found, err := a.findWith(t, trust(pair.Key)); err != nil || found.Digest != digest {
		t.Fatalf("found %v, %v", found, err)
	}
	for _, r := range a.registry.Requests()[before:] {
		if strings.Contains(r.Path, "/blobs/") && !strings.Contains(r.Path, a.image.ConfigBlob.Digest.String()) {
			t.Errorf("the payload is fetched: %s", r.Path)
		}
	}
}

// Signing twice adds nothing, signing with other keys adds to what is there, and of two that sign
// at the same time none is lost.
func TestSigningKeepsSignatures(t *testing.T) {
	a := accelerate(t, registrytest.New(t, registrytest.Config{}))
	digest := a.find(t, a.image.Name).Digest
	repo := a.image.Name.Context()
	pairs := make([]signaturetest.Pair, 3)
	var group errgroup.Group
	for i := range pairs {
		pairs[i] = signaturetest.NewPair(t)
	}
	for _, pair := range pairs {
		group.Go(func() error {
			client := newClient(t, registry.Config{})
			_, err := client.Sign(t.Context(), repo, digest, pair.Signer)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	tag := signature.Tag(repo, digest)
	for _, pair := range pairs {
		if _, err := a.client.Sign(t.Context(), repo, digest, pair.Signer); err != nil {
			t.Fatal(err) // adds what was lost after all: two may have won in turn
		}
	}
	before, err := a.client.ReadManifest(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range pairs {
		if added, err := a.client.Sign(t.Context(), repo, digest, pair.Signer); err != nil || added {
			t.Errorf("signing again: added %t, %v", added, err)
		}
		if _, err := a.client.FindSignature(t.Context(), repo, digest, []*signature.Key{pair.Key}); err != nil {
			t.Errorf("a signature is lost: %v", err)
		}
	}
	after, err := a.client.ReadManifest(t.Context(), tag)
	if err != nil || after.Digest != before.Digest {
		t.Errorf("signing again has changed %s to %s, %v", before.Digest, after.Digest, err)
	}
	if _, err := a.client.Sign(t.Context(), repo, block.Sum([]byte("nothing")), pairs[0].Signer); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("signing what is not there: %v", err)
	}
}
