package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/image/signature/signaturetest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestSign converts and signs, signs again and with a second key, pushes a signed trace, and verifies.
func TestSign(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	first, second := signaturetest.NewPair(t), signaturetest.NewPair(t)
	requireOutput(t, run(t, "convert", "--sign", first.Private, image), "index sha256:", ": signed with "+first.Private)
	requireOutput(t, run(t, "verify", "--key", first.Public, image), "signed by "+first.Public, "every digest is right")

	refused := func(stderr string, args ...string) {
		t.Helper()
		if got := finish(t, program(t, args...)); got.code == 0 || !strings.Contains(got.stderr, stderr) {
			t.Errorf("brisk %s: %+v", strings.Join(args, " "), got)
		}
	}
	refused("not signed by a trusted key", "verify", "--key", second.Public, image)
	requireOutput(t, run(t, "sign", "--key", first.Private, "--key", second.Private, image),
		"already signed with "+first.Private, ": signed with "+second.Private)
	for _, pair := range []signaturetest.Pair{first, second} {
		requireOutput(t, run(t, "verify", "--key", pair.Public, image), "signed by "+pair.Public)
	}

	list := writeFile(t, "list", []byte("/"+filePath("1")+"\n"))
	run(t, "trace", "push", image, list)
	refused("start-up artifact sha256:", "verify", "--key", first.Public, image)
	requireOutput(t, run(t, "trace", "push", "--sign", first.Private, image, list), "start-up artifact sha256:", ": signed with "+first.Private)
	requireOutput(t, run(t, "verify", "--key", first.Public, image), "start-up artifact sha256:")

	var report signReport
	if err := json.Unmarshal([]byte(run(t, "sign", "--key", second.Private, "-o", "json", image)), &report); err != nil {
		t.Fatal(err)
	}
	added := make(map[string]bool)
	for _, a := range report.Artifacts {
		for _, by := range a.Keys {
			added[a.Kind] = by.Added
		}
	}
	if len(report.Artifacts) != 2 || !added["startup"] || added["index"] {
		t.Errorf("report %+v", report)
	}
	refused("no such file", "sign", "--key", "/none/cosign.key", image)
	refused("has no index artifact", "sign", "--key", first.Private, pushImage(t, reg, "plain:v1"))
	refused(`required flag(s) "key" not set`, "sign", image)
	refused("not PEM", "sign", "--key", list, image)
}

// TestSignFullMode signs what belongs to the image in full mode, which has another name.
func TestSignFullMode(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{Referrers: true})
	image := pushImage(t, reg, "app:v1")
	pair := signaturetest.NewPair(t)
	requireOutput(t, run(t, "convert", "--mode", "full", "--sign", pair.Private, image), ": signed with")
	requireOutput(t, run(t, "verify", "--key", pair.Public, image+"_accelerated"), "signed by")
	requireOutput(t, run(t, "sign", "--key", pair.Private, image), "already signed with")
}

// A key that cannot be used is found before anything is pushed.
func TestConvertWithWrongKeyPushesNothing(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	reg.ResetRequests()
	key := writeFile(t, "cosign.key", []byte("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"))
	cmd := program(t, "convert", "--sign", key, image)
	cmd.Env = append(cmd.Env, "COSIGN_PASSWORD=x")
	if got := finish(t, cmd); got.code == 0 || len(reg.Requests()) != 0 {
		t.Errorf("%+v after %d requests", got, len(reg.Requests()))
	}
	cmd = program(t, "convert", "--sign", key, image)
	if got := finish(t, cmd); got.code == 0 || !strings.Contains(got.stderr, "set COSIGN_PASSWORD") {
		t.Errorf("without a password: %+v", got)
	}
}

// A copy with brisk has the signatures too.
func TestCopyKeepsSignatures(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	pair := signaturetest.NewPair(t)
	run(t, "convert", "--sign", pair.Private, image)
	copied := reg.Ref(t, "elsewhere:v1").String()
	run(t, "copy", image, copied)
	requireOutput(t, run(t, "verify", "--key", pair.Public, copied), "signed by")
}

// An image in files is signed there, and has its signatures in the registry that it is copied to.
func TestSignInFiles(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	pair := signaturetest.NewPair(t)
	dir := "oci:" + t.TempDir() + "/image:v1"
	run(t, "copy", pushImage(t, reg, "app:v1"), dir)
	run(t, "convert", dir)
	requireOutput(t, run(t, "sign", "--key", pair.Private, dir), ": signed with")
	copied := reg.Ref(t, "elsewhere:v1").String()
	run(t, "copy", dir, copied)
	requireOutput(t, run(t, "verify", "--key", pair.Public, copied), "signed by")
}
