package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/image/signature/signaturetest"
	"github.com/brisk-project/brisk/image/signing"
	"github.com/brisk-project/brisk/test/registrytest"
)

// envCosign is the path of cosign, which "make test-cosign" builds.
const envCosign = "BRISK_TEST_COSIGN"

// cosign runs cosign without transparency log, as whoever has keys of their own does.
func cosign(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv(envCosign), args...)
	cmd.Env = append(os.Environ(), "COSIGN_PASSWORD=secret", "HOME="+t.TempDir(), "DOCKER_CONFIG="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestCosign signs with Brisk and verifies with cosign, and the other way round, with a key that
// cosign has made.
func TestCosign(t *testing.T) {
	if os.Getenv(envCosign) == "" {
		t.Skip("needs cosign: \"make test-cosign\" builds it and sets " + envCosign)
	}
	for _, referrers := range []bool{false, true} {
		reg := registrytest.New(t, registrytest.Config{Referrers: referrers})
		image := pushImage(t, reg, "app:v1")
		keys := filepath.Join(t.TempDir(), "cosign")
		if out, err := cosign(t, "generate-key-pair", "--output-key-prefix", keys); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Setenv("COSIGN_PASSWORD", "secret")
		other := signaturetest.NewPair(t)
		run(t, "convert", image)
		run(t, "trace", "push", image, writeFile(t, "list", []byte("/"+filePath("1")+"\n")))
		var report signReport
		if err := json.Unmarshal([]byte(run(t, "sign", "--key", keys+".key", "-o", "json", image)), &report); err != nil {
			t.Fatal(err)
		}
		if len(report.Artifacts) != 2 {
			t.Fatalf("signed %+v", report.Artifacts)
		}
		repository, _, _ := strings.Cut(image, ":v1")
		for _, a := range report.Artifacts {
			named := repository + "@" + a.Digest.String()
			if out, err := cosign(t, "verify", "--key", keys+".pub", "--insecure-ignore-tlog=true", named); err != nil || !strings.Contains(out, a.Digest.String()) {
				t.Errorf("cosign verify of what Brisk has signed: %v\n%s", err, out)
			}
			if out, err := cosign(t, "verify", "--key", other.Public, "--insecure-ignore-tlog=true", named); err == nil {
				t.Errorf("cosign verifies with another key:\n%s", out)
			}
		}
		testCosignSigns(t, reg, report.Artifacts, keys, other)
	}
}

// testCosignSigns signs with cosign what Brisk verifies: beside a signature of Brisk, and first.
func testCosignSigns(t *testing.T, reg *registrytest.Registry, signed []*signing.Artifact, keys string, other signaturetest.Pair) {
	t.Helper()
	image := reg.Ref(t, "app:v1").String()
	repository, _, _ := strings.Cut(image, ":v1")
	second := filepath.Join(t.TempDir(), "second")
	if out, err := cosign(t, "generate-key-pair", "--output-key-prefix", second); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, a := range signed {
		if out, err := cosign(t, "sign", "--key", second+".key", "--tlog-upload=false", "--yes", "-a", "team=app", repository+"@"+a.Digest.String()); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for _, key := range []string{keys, second} {
		requireOutput(t, run(t, "verify", "--key", key+".pub", image), "signed by "+key+".pub")
	}
	// And Brisk adds to what cosign has stored, which both then verify.
	requireOutput(t, run(t, "sign", "--key", other.Private, image), ": signed with")
	for _, key := range []string{keys + ".pub", second + ".pub", other.Public} {
		run(t, "verify", "--key", key, image)
		for _, a := range signed {
			if out, err := cosign(t, "verify", "--key", key, "--insecure-ignore-tlog=true", repository+"@"+a.Digest.String()); err != nil {
				t.Errorf("cosign verify --key %s: %v\n%s", key, err, out)
			}
		}
	}
}
