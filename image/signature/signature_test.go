package signature_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/image/signature/signaturetest"
	"github.com/brisk-project/brisk/internal/block"
)

func repo(tb testing.TB) name.Repository {
	tb.Helper()
	r, err := name.NewRepository("registry.example.com/team/app")
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// signed returns the manifest of the signatures of a digest.
func signed(tb testing.TB, digest block.Digest, signers ...*signature.Signer) []byte {
	tb.Helper()
	set, err := signature.NewSet(repo(tb), digest)
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range signers {
		if err := s.Sign(tb.Context(), set); err != nil {
			tb.Fatal(err)
		}
	}
	manifest, _, _, err := set.Encode(v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: digest.Hex()}})
	if err != nil {
		tb.Fatal(err)
	}
	return manifest
}

// verify verifies what a manifest lists for a digest.
func verify(tb testing.TB, manifest []byte, digest block.Digest, keys ...*signature.Key) (*signature.Key, error) {
	tb.Helper()
	set, err := signature.ParseSet(repo(tb), digest, manifest)
	if err != nil {
		return nil, err
	}
	s, key, err := set.Verify(keys)
	if err != nil {
		return nil, err
	}
	if again, err := s.Verify(keys, digest); err != nil || again != key {
		tb.Errorf("the signature alone: %v, %v", again, err)
	}
	return key, nil
}

// edit changes the manifest of signatures.
func edit(tb testing.TB, manifest []byte, change func(m *v1.Manifest)) []byte {
	tb.Helper()
	var m v1.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		tb.Fatal(err)
	}
	change(&m)
	out, err := json.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestSignatureIsVerifiedByItsKeyOnly(t *testing.T) {
	a, b, c := signaturetest.NewPair(t), signaturetest.NewPair(t), signaturetest.NewPair(t)
	digest := block.Sum([]byte("artifact"))
	manifest := signed(t, digest, a.Signer, b.Signer)
	for _, pair := range []signaturetest.Pair{a, b} {
		if key, err := verify(t, manifest, digest, c.Key, pair.Key); err != nil || key != pair.Key {
			t.Errorf("with its key: %v, %v", key, err)
		}
	}
	if _, err := verify(t, manifest, digest, c.Key); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := verify(t, manifest, digest); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("without keys: %v", err)
	}
	if _, err := verify(t, signed(t, digest), digest, a.Key); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("without signatures: %v", err)
	}
	if a.Key.ID == b.Key.ID || a.Key.ID.IsZero() {
		t.Errorf("keys have the IDs %s and %s", a.Key.ID, b.Key.ID)
	}
}

// The signature of one digest under the tag of another one, as anyone can push who may push at all.
func TestSignatureOfAnotherDigestIsNone(t *testing.T) {
	pair := signaturetest.NewPair(t)
	digest, other := block.Sum([]byte("artifact")), block.Sum([]byte("other"))
	if _, err := verify(t, signed(t, digest, pair.Signer), other, pair.Key); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("replayed: %v", err)
	}
	// Nor does the payload of the one make the signature of the other valid.
	var foreign v1.Manifest
	if err := json.Unmarshal(signed(t, other, pair.Signer), &foreign); err != nil {
		t.Fatal(err)
	}
	mixed := edit(t, signed(t, digest, pair.Signer), func(m *v1.Manifest) { m.Layers[0].Annotations = foreign.Layers[0].Annotations })
	if _, err := verify(t, mixed, digest, pair.Key); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("with the signature of another payload: %v", err)
	}
}

// TestPayloadIsThatOfCosign compares with what cosign signs: the fields, their order and names.
func TestPayloadIsThatOfCosign(t *testing.T) {
	pair := signaturetest.NewPair(t)
	digest := block.Sum([]byte("artifact"))
	var m v1.Manifest
	if err := json.Unmarshal(signed(t, digest, pair.Signer), &m); err != nil {
		t.Fatal(err)
	}
	want := `{"critical":{"identity":{"docker-reference":"registry.example.com/team/app"},"image":{"docker-manifest-digest":"` +
		digest.String() + `"},"type":"cosign container image signature"},"optional":null}`
	layer := m.Layers[0]
	if string(layer.Data) != want || layer.Digest.Hex != block.Sum([]byte(want)).Hex() || layer.Size != int64(len(want)) {
		t.Errorf("payload %s of %d bytes, digest %s", layer.Data, layer.Size, layer.Digest)
	}
	if layer.MediaType != "application/vnd.dev.cosign.simplesigning.v1+json" || layer.Annotations["dev.cosignproject.cosign/signature"] == "" {
		t.Errorf("layer %+v", layer)
	}
	if tag := signature.Tag(repo(t), digest).TagStr(); tag != "sha256-"+digest.Hex()+".sig" {
		t.Errorf("tag %s", tag)
	}
	if m.Subject == nil || m.Subject.Digest.Hex != digest.Hex() || m.ArtifactType != "application/vnd.dev.cosign.artifact.sig.v1+json" {
		t.Errorf("as referrer: subject %+v, type %s", m.Subject, m.ArtifactType)
	}
}

// A payload that is not in the manifest follows from what is signed, or has to be fetched.
func TestPayloadsAreFetchedOnlyIfTheyAreNotKnown(t *testing.T) {
	pair := signaturetest.NewPair(t)
	digest := block.Sum([]byte("artifact"))
	var content []byte
	manifest := edit(t, signed(t, digest, pair.Signer), func(m *v1.Manifest) { content, m.Layers[0].Data = m.Layers[0].Data, nil })
	if _, err := verify(t, manifest, digest, pair.Key); err != nil {
		t.Errorf("in the same repository: %v", err)
	}
	elsewhere, err := name.NewRepository("mirror.example.com/app")
	if err != nil {
		t.Fatal(err)
	}
	set, err := signature.ParseSet(elsewhere, digest, manifest)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := set.Verify([]*signature.Key{pair.Key}); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("with a payload that nobody knows: %v", err)
	}
	if missing := set.Missing(); len(missing) != 1 || missing[0].Digest.Hex != block.Sum(content).Hex() {
		t.Fatalf("missing %+v", missing)
	}
	set.AddPayload(content)
	if _, key, err := set.Verify([]*signature.Key{pair.Key}); err != nil || key != pair.Key || len(set.Missing()) != 0 {
		t.Errorf("copied to another repository: %v", err)
	}
}

func TestDamagedSignaturesAreNone(t *testing.T) {
	pair := signaturetest.NewPair(t)
	digest := block.Sum([]byte("artifact"))
	whole := signed(t, digest, pair.Signer)
	layer := func(change func(d *v1.Descriptor)) []byte {
		return edit(t, whole, func(m *v1.Manifest) { change(&m.Layers[0]) })
	}
	for what, manifest := range map[string][]byte{
		"payload":                layer(func(d *v1.Descriptor) { d.Data[40] ^= 1; d.Digest.Hex = block.Sum(d.Data).Hex() }),
		"payload, same digest":   layer(func(d *v1.Descriptor) { d.Data[40] ^= 1; d.Digest.Hex = strings.Repeat("0", 64) }),
		"signature":              layer(func(d *v1.Descriptor) { flip(d, 10) }),
		"no base64":              layer(func(d *v1.Descriptor) { d.Annotations[signature.Annotation] = "%%%" }),
		"no signature":           layer(func(d *v1.Descriptor) { delete(d.Annotations, signature.Annotation) }),
		"another media type":     layer(func(d *v1.Descriptor) { d.MediaType = "text/plain" }),
		"a signature of 1 MiB":   layer(func(d *v1.Descriptor) { d.Annotations[signature.Annotation] = strings.Repeat("A", 1<<20) }),
		"a payload of 2 GiB":     layer(func(d *v1.Descriptor) { d.Size = 2 << 30 }),
		"a payload of no length": layer(func(d *v1.Descriptor) { d.Size = 0 }),
	} {
		if _, err := verify(t, manifest, digest, pair.Key); !errors.Is(err, signature.ErrUnsigned) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, manifest := range map[string][]byte{
		"nothing": nil, "no JSON": []byte("signed"), "two values": append(slices.Clone(whole), '{', '}'),
		"5 MiB": append(slices.Clone(whole), make([]byte, 5<<20)...),
	} {
		if _, err := verify(t, manifest, digest, pair.Key); !errors.Is(err, signature.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// flip changes a byte of a signature.
func flip(d *v1.Descriptor, at int) {
	raw, err := base64.StdEncoding.DecodeString(d.Annotations[signature.Annotation])
	if err != nil {
		panic(err)
	}
	raw[at] ^= 1
	d.Annotations[signature.Annotation] = base64.StdEncoding.EncodeToString(raw)
}

// Signed payloads that are not what they should be: whoever has the key signs other things too.
func TestSignedPayloadsAreChecked(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := signature.NewKey("key", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	digest := block.Sum([]byte("artifact"))
	good := fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":{"a":"b"}}`, digest)
	for payload, valid := range map[string]bool{
		good: true,
		strings.Replace(good, "cosign container", "atomic container", 1):               false,
		strings.Replace(good, digest.String(), block.Sum([]byte("x")).String(), 1):     false,
		strings.Replace(good, digest.String(), "sha512:"+digest.Hex()+digest.Hex(), 1): false,
		`{"critical":null}`: false, `null`: false, digest.String(): false, good + "{}": false,
		strings.Replace(good, `"b"`, `"`+strings.Repeat("b", signature.MaxPayload)+`"`, 1): false,
	} {
		sum := crypto.SHA256.New()
		sum.Write([]byte(payload))
		raw, err := ecdsa.SignASN1(rand.Reader, key, sum.Sum(nil))
		if err != nil {
			t.Fatal(err)
		}
		_, err = signature.Signature{Payload: []byte(payload), Signed: raw}.Verify([]*signature.Key{public}, digest)
		if (err == nil) != valid || err != nil && !errors.Is(err, signature.ErrUnsigned) {
			t.Errorf("%.200s: %v", payload, err)
		}
	}
}

// Of a thousand signatures the newest ones count, and adding one has a limit.
func TestThousandSignatures(t *testing.T) {
	pair, other := signaturetest.NewPair(t), signaturetest.NewPair(t)
	digest := block.Sum([]byte("artifact"))
	foreign := signed(t, digest, other.Signer)
	many := func(n int, place func(all []v1.Descriptor, own v1.Descriptor) []v1.Descriptor) []byte {
		return edit(t, signed(t, digest, pair.Signer), func(m *v1.Manifest) {
			var f v1.Manifest
			if err := json.Unmarshal(foreign, &f); err != nil {
				t.Fatal(err)
			}
			m.Layers = place(slices.Repeat(f.Layers, n), m.Layers[0])
		})
	}
	last := many(999, func(all []v1.Descriptor, own v1.Descriptor) []v1.Descriptor { return append(all, own) })
	if _, err := verify(t, last, digest, pair.Key); err != nil {
		t.Errorf("the newest of a thousand: %v", err)
	}
	first := many(999, func(all []v1.Descriptor, own v1.Descriptor) []v1.Descriptor {
		return append([]v1.Descriptor{own}, all...)
	})
	if _, err := verify(t, first, digest, pair.Key); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("the oldest of a thousand: %v", err)
	}
	set, err := signature.ParseSet(repo(t), digest, first)
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Signer.Sign(t.Context(), set); err == nil || !strings.Contains(err.Error(), "the limit is 1000") {
		t.Errorf("one more: %v", err)
	}
	// Each with a payload of its own: few are fetched.
	distinct := edit(t, last, func(m *v1.Manifest) {
		for i := range m.Layers {
			m.Layers[i].Data, m.Layers[i].Digest.Hex = nil, block.Sum([]byte(strconv.Itoa(i))).Hex()
		}
	})
	if set, err = signature.ParseSet(repo(t), digest, distinct); err != nil || len(set.Missing()) != signature.MaxFetched {
		t.Errorf("%d payloads are to be fetched, %v", len(set.Missing()), err)
	}
}

// FuzzSet parses manifests with signatures: none but the right one may verify.
func FuzzSet(f *testing.F) {
	pair := signaturetest.NewPair(f)
	digest, other := block.Sum([]byte("artifact")), block.Sum([]byte("other"))
	right := signed(f, digest, pair.Signer)
	f.Add(right)
	f.Add(signed(f, other, pair.Signer))
	f.Add([]byte(`{"layers":[{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","size":1,"digest":"sha256:` + digest.Hex() + `","annotations":{"dev.cosignproject.cosign/signature":"AA=="}}]}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		set, err := signature.ParseSet(repo(t), other, manifest)
		if err != nil {
			if !errors.Is(err, signature.ErrInvalid) {
				t.Fatalf("error without a kind: %v", err)
			}
			return
		}
		if len(set.Missing()) > signature.MaxFetched {
			t.Fatal("too much to fetch")
		}
		set.AddPayload(manifest)
		// The seed that is right for the other digest is the only one that may be.
		if s, _, err := set.Verify([]*signature.Key{pair.Key}); err == nil && !strings.Contains(string(s.Payload), other.String()) {
			t.Fatalf("verified with the payload %s", s.Payload)
		}
	})
}
