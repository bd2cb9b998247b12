package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/brisk-project/brisk/test/registrytest"
)

func inspected(t *testing.T, args ...string) *inspection {
	t.Helper()
	var seen inspection
	if err := json.Unmarshal([]byte(run(t, append([]string{"inspect", "-o", "json"}, args...)...)), &seen); err != nil {
		t.Fatal(err)
	}
	return &seen
}

// Everything that belongs to an image is shown: traces of each kind, bundle, prefetch list and signatures.
func TestInspectAll(t *testing.T) {
	for _, cfg := range []registrytest.Config{{}, {Referrers: true}} {
		reg := registrytest.New(t, cfg)
		image := pushImage(t, reg, "app:v1")
		run(t, "convert", image)
		bare := inspected(t, image)
		if bare.Mode != "index" || bare.Source != "" || bare.Startup != nil || *bare.Signatures != (signatureCounts{}) {
			t.Errorf("before: %+v", bare)
		}
		run(t, "trace", "push", "--bundle", image, writeFile(t, "trace", []byte(filePath("1"))))
		run(t, "prefetch", "set", image, writeFile(t, "list", []byte("/"+filePath("2")+"\n")))
		seen := inspected(t, image)
		payload := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(9, 1, 100)...)}
		const kind = "application/vnd.dev.sigstore.bundle.v0.3+json"
		for i, digest := range []string{seen.Digest, seen.Artifact, seen.Artifact, seen.Startup.Artifact} {
			payload.Tar = registrytest.Tar(t, registrytest.Files(uint64(i+10), 1, 100)...)
			reg.PushReferrer(t, "app", kind, reg.Describe(t, reg.Ref(t, "app@"+digest), nil), payload)
		}
		reg.PushArtifact(t, "app:sha256-"+seen.Digest[len("sha256:"):]+".sig", "", payload)
		reg.PushReferrer(t, "app", "application/spdx+json", reg.Describe(t, reg.Ref(t, "app@"+seen.Digest), nil), payload)
		seen = inspected(t, image)
		kinds := make(map[string]int)
		for _, trace := range append(seen.Predicted, seen.Startup.Traces...) {
			kinds[trace.Kind]++
		}
		if kinds["recorded"] != 1 || kinds["list"] != 1 || seen.Startup.Bundle == 0 || seen.Startup.PrefetchList == 0 || seen.Startup.Created.IsZero() {
			t.Errorf("start-up artifact %+v, traces %v", seen.Startup, kinds)
		}
		if *seen.Signatures != (signatureCounts{Image: 2, Index: 2, Startup: 1}) {
			t.Errorf("signatures %+v", seen.Signatures)
		}
		requireOutput(t, run(t, "inspect", image), "mode", "index", "start-up", "bundle", "prefetch list", "recorded, ", "list, ",
			"2 of the image, 2 of the index, 1 of the start-up artifact")
		run(t, "convert", "--mode", "full", image)
		full := inspected(t, image+"_accelerated")
		if full.Mode != "full" || full.Source != seen.Digest || full.Startup == nil || full.Startup.Bundle != seen.Startup.Bundle {
			t.Errorf("full mode: %+v", full)
		}
	}
}

// Images in files are inspected and verified where they are.
func TestInspectFiles(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	dir := t.TempDir()
	for _, file := range []string{"oci:" + filepath.Join(dir, "layout") + ":v1", "oci-archive:" + filepath.Join(dir, "app.tar") + ":v1"} {
		run(t, "convert", image, file)
		if seen := inspected(t, file); seen.Image != file || len(seen.Layers) != 2 || *seen.Signatures != (signatureCounts{}) {
			t.Errorf("%s: %+v", file, seen)
		}
		requireOutput(t, run(t, "verify", file), "2 layers, 10 blocks, every digest is right")
	}
	missing := finish(t, program(t, "inspect", "oci:"+filepath.Join(dir, "none")))
	if missing.code == 0 {
		t.Error("a directory that is not there was inspected")
	}
}
