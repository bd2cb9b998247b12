package main

import (
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/image/signature/signaturetest"
	"github.com/brisk-project/brisk/image/signing"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// sign signs the index of an image.
func (s *site) sign(ref name.Reference, pair signaturetest.Pair) {
	s.t.Helper()
	client := pushClient(s.t)
	artifacts, err := signing.Find(s.t.Context(), client, ref)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := signing.Sign(s.t.Context(), client, ref.Context(), artifacts, []*signature.Signer{pair.Signer}); err != nil {
		s.t.Fatal(err)
	}
}

// TestTrustSigned pulls with containerd on a node that requires signatures: an image whose index is
// signed is lazy, one whose index is not is downloaded. Its next pull is lazy, with an index that
// the node has written itself.
func TestTrustSigned(t *testing.T) {
	t.Parallel()
	pair := signaturetest.NewPair(t)
	s := newSite(t)
	s.stop()
	s.stop = s.run("--containerd", s.Address, "--write-indexes", "--index-trust", "signed", "--index-key", pair.Public)
	first, path, sum := files(t, 1, 3<<20)
	second, otherPath, otherSum := files(t, 2, 3<<20)
	signed := []registrytest.Layer{shell(t), first}
	unsigned := []registrytest.Layer{shell(t), second}
	good := s.push("signed:v1", true, signed...)
	s.sign(s.reg.Ref(t, "signed:v1"), pair)
	bad := s.push("unsigned:v1", true, unsigned...)

	s.requireSum("unsigned", s.Pull(bad), otherPath, otherSum)
	if n := s.downloaded(unsigned...); n != 2 {
		t.Errorf("%d layers of an image without a trusted index were downloaded", n)
	}
	if reason, lazy := s.reasonOf(bad); reason != "untrusted" || lazy {
		t.Errorf("status: reason %q, lazy %t", reason, lazy)
	}
	if len(s.logs.lines("downloaded in full", "unsigned:v1", "reason=untrusted")) != 1 {
		t.Error("the log does not say why")
	}
	containerdtest.Await(t, "the index", 30*time.Second, func() bool { return len(s.logs.lines("index written", "unsigned:v1")) == 1 })
	s.RemoveImage(bad)
	s.reg.ResetRequests()
	image := s.Pull(bad)
	if n := s.downloaded(unsigned...); n != 0 {
		t.Errorf("with an index of the node itself %d layers were downloaded", n)
	}
	s.requireSum("own", image, otherPath, otherSum)
	s.RemoveImage(bad)

	image = s.Pull(good)
	if n := s.downloaded(signed...); n != 0 {
		t.Errorf("%d layers of an image with a signed index were downloaded", n)
	}
	if reason, lazy := s.reasonOf(good); reason != "" || !lazy {
		t.Errorf("status: reason %q, lazy %t", reason, lazy)
	}
	s.requireSum("signed", image, path, sum)
	s.RemoveImage(good)
}
