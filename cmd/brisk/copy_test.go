package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/transfer"
	"github.com/brisk-project/brisk/test/registrytest"
)

// copied runs "brisk copy" and returns its result.
func copied(t *testing.T, args ...string) *transfer.Result {
	t.Helper()
	var result transfer.Result
	if err := json.Unmarshal([]byte(run(t, append([]string{"copy", "-o", "json"}, args...)...)), &result); err != nil {
		t.Fatal(err)
	}
	return &result
}

// A copy has the index and the accelerated tag of its source, by way of files too, and can be verified where it is.
func TestCopy(t *testing.T) {
	from, to := registrytest.New(t, registrytest.Config{}), registrytest.New(t, registrytest.Config{Referrers: true})
	image := pushImage(t, from, "app:v1")
	run(t, "convert", image)
	archive := "oci-archive:" + filepath.Join(t.TempDir(), "app.tar")
	for _, step := range [][2]string{
		{image, to.Ref(t, "direct:v1").String()},
		{image, archive},
		{archive, to.Ref(t, "team/app:v2").String()},
	} {
		requireOutput(t, run(t, "copy", step[0], step[1]), "copied to "+step[1], "referrers", "blobs")
	}
	for _, ref := range []string{"direct:v1", "team/app:v2"} {
		there := to.Ref(t, ref).String()
		requireOutput(t, run(t, "verify", there), "every digest is right")
		requireOutput(t, run(t, "verify", there+"_accelerated"), "every digest is right")
	}
	again := copied(t, image, to.Ref(t, "direct:v1").String())
	if len(again.Tags) != 2 || again.Source != image || again.Referrers == 0 || again.Bytes == 0 || len(again.Missing) > 0 {
		t.Errorf("result %+v", again)
	}
	requireOutput(t, run(t, "copy", "-o", "yaml", image, to.Ref(t, "direct:v1").String()), "digest: sha256:", "tags:")
}

func TestCopyErrors(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	for text, args := range map[string][]string{
		"app:none":             {reg.Ref(t, "app:none").String(), reg.Ref(t, "other:v1").String()},
		"parsing image":        {image, "registry.example.com/UPPER:case"},
		"it is only read":      {image, "docker-archive:" + filepath.Join(t.TempDir(), "app.tar")},
		"accepts 2 arg(s)":     {image},
		"not table, json":      {"-o", "xml", image, reg.Ref(t, "other:v1").String()},
		"oci:/nowhere/at/all:": {"oci:/nowhere/at/all:v1", reg.Ref(t, "other:v1").String()},
	} {
		if got := finish(t, program(t, append([]string{"copy"}, args...)...)); got.code == 0 || !strings.Contains(got.stderr, text) {
			t.Errorf("copy %v: exit code %d, %s", args, got.code, got.stderr)
		}
	}
}

// The accelerated tag has the suffix that was asked for, converting with it again is a no-op, and
// a copy takes that tag along if it is named.
func TestTagSuffix(t *testing.T) {
	for _, mode := range []string{"index", "full"} {
		reg, to := registrytest.New(t, registrytest.Config{}), registrytest.New(t, registrytest.Config{})
		image := pushImage(t, reg, "app:v1")
		const suffix = "_containerd_accelerated"
		args := []string{"convert", "-o", "json", "--mode", mode, "--tag-suffix", suffix}
		for i := range 2 {
			var result convert.Result
			if err := json.Unmarshal([]byte(run(t, append(args, image)...)), &result); err != nil {
				t.Fatal(err)
			}
			if result.Tag != image+suffix || result.TagPushed != (i == 0) {
				t.Errorf("%s: conversion %d: %+v", mode, i, result)
			}
		}
		if got := finish(t, program(t, "inspect", image+"_accelerated")); got.code == 0 {
			t.Errorf("%s: the default tag was written too", mode)
		}
		requireOutput(t, run(t, "verify", image+suffix), "every digest is right")
		target := to.Ref(t, "app:v2").String()
		if result := copied(t, image, target); len(result.Tags) != 1 {
			t.Errorf("%s: copied tags %v", mode, result.Tags)
		}
		if result := copied(t, "--tag-suffix", suffix, image, target); len(result.Tags) != 2 || result.Tags[0] != target+suffix {
			t.Errorf("%s: copied tags %v", mode, result.Tags)
		}
		requireOutput(t, run(t, "verify", target+suffix), "every digest is right")
	}
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	if got := finish(t, program(t, "convert", "--tag-suffix", "/no", image)); got.code == 0 || !strings.Contains(got.stderr, "tag of the accelerated image index") {
		t.Errorf("a suffix that no tag can have: %d, %s", got.code, got.stderr)
	}
	if got := finish(t, program(t, "convert", "--tag-suffix", "_x", "--tag", image+"-fast", image)); got.code == 0 {
		t.Error("--tag and --tag-suffix were accepted together")
	}
}

// Commands choose the image for a platform beside attestations and within nested image indexes.
func TestPlatformAmongNested(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	push := func(seed uint64, platform v1.Platform) v1.Descriptor {
		layer := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(seed, 1, 1<<20)...)}
		return reg.Describe(t, reg.Push(t, "app:part", registrytest.Image{Layers: []registrytest.Layer{layer}, Platform: platform}), &platform)
	}
	arm := push(1, v1.Platform{OS: "linux", Architecture: "arm64"})
	attestation := push(2, v1.Platform{OS: "unknown", Architecture: "unknown"})
	native := push(3, v1.Platform{OS: "linux", Architecture: "amd64"})
	nested := reg.Describe(t, reg.PushEntries(t, "app:nested", arm), nil)
	reg.PushEntries(t, "app:v1", attestation, nested, native)
	image := reg.Ref(t, "app:v1").String()
	requireOutput(t, run(t, "convert", "--platform", "linux/arm64", image), "linux/arm64  index sha256:")
	for platform, want := range map[string]string{"linux/arm64": arm.Digest.String(), "linux/amd64": native.Digest.String()} {
		if platform == "linux/amd64" {
			got := finish(t, program(t, "inspect", "--platform", platform, image))
			if got.code == 0 || !strings.Contains(got.stderr, "other platforms only") && !strings.Contains(got.stderr, "no index artifact") {
				t.Errorf("not converted: %d, %s", got.code, got.stderr)
			}
			run(t, "convert", image)
		}
		for _, ref := range []string{image, image + "_accelerated"} {
			requireOutput(t, run(t, "inspect", "--platform", platform, ref), want)
			requireOutput(t, run(t, "verify", "--platform", platform, ref), want)
		}
	}
	if got := finish(t, program(t, "inspect", "--platform", "linux/s390x", image)); got.code == 0 || !strings.Contains(got.stderr, "linux/s390x") {
		t.Errorf("a platform that is not there: %d, %s", got.code, got.stderr)
	}
}
