package main

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// startupOf returns the start-up artifact that nodes find for an image.
func startupOf(t *testing.T, image string) *registry.Startup {
	t.Helper()
	client, err := registry.NewClient(registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	found, err := openIndexed(t.Context(), client, image, v1.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	return found.artifact.Startup
}

// convertAs converts an image with flags and returns the start-up artifact that it says it has pushed,
// nil if there is none.
func convertAs(t *testing.T, image string, flags ...string) *artifact.UpdateResult {
	t.Helper()
	var converted conversionReport
	if err := json.Unmarshal([]byte(run(t, append([]string{"convert", "-o", "json", image}, flags...)...)), &converted); err != nil {
		t.Fatal(err)
	}
	if len(converted.Startup) == 0 {
		return nil
	}
	return converted.Startup[0]
}

// TestConvertKeepsTraces converts an image with a list of files, and then others under its tag, which
// keep what was recorded as far as they have the same layers, with its bundle.
func TestConvertKeepsTraces(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		reg := registrytest.New(t, registrytest.Config{Referrers: referrers})
		layer := func(seed uint64) registrytest.Layer {
			return registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(seed, 1, 1<<20)...), Level: 1}
		}
		push := func(config string, layers ...registrytest.Layer) string {
			reg.Push(t, "app:v1", registrytest.Image{Layers: layers, Config: func(c *v1.Config) { c.Cmd = []string{config} }})
			return reg.Ref(t, "app:v1").String()
		}
		list := writeFile(t, "list", []byte("data-1/file-0000\ndata-2/file-0000\n"))
		image := push("first", layer(1), layer(2))
		first := convertAs(t, image, "--trace", list, "--bundle")
		if got := startupOf(t, image); first == nil || got == nil || got.Digest != first.Digest || got.Bundle == nil || len(got.Traces) != 1 || first.From != nil || first.Trace < 2<<20 {
			t.Fatalf("referrers %v: pushed %+v, found %+v", referrers, first, got)
		}
		bundle := startupOf(t, image).Bundle.Digest
		if again := convertAs(t, image); again != nil {
			t.Errorf("nothing has changed, but %+v was pushed", again)
		}

		image = push("second", layer(1), layer(2))
		reg.ResetRequests()
		second := convertAs(t, image)
		for _, r := range reg.BlobRequests() {
			if slices.ContainsFunc([]uint64{1, 2}, func(seed uint64) bool {
				return path.Base(r.Path) == block.Sum(registrytest.Compress(t, layer(seed))).String()
			}) {
				t.Errorf("a layer was read for a bundle that is there: %+v", r)
			}
		}
		got := startupOf(t, image)
		if second == nil || got == nil || second.From == nil || second.Trace != first.Trace || got.Bundle == nil || got.Bundle.Digest != bundle {
			t.Fatalf("with the same layers: pushed %+v, found %+v", second, got)
		}

		image = push("third", layer(1), layer(3))
		third := convertAs(t, image)
		got = startupOf(t, image)
		if third == nil || got == nil || third.Trace >= first.Trace || third.Trace < 1<<20 || got.Bundle == nil || got.Bundle.Digest == bundle {
			t.Errorf("with another top layer: pushed %+v, found %+v", third, got)
		}
		requireOutput(t, run(t, "trace", "show", image), "data-1/file-0000")

		image = push("fourth", layer(4))
		if fourth := convertAs(t, image); fourth != nil || startupOf(t, image) != nil {
			t.Errorf("with other layers %+v was pushed", fourth)
		}
		for _, bad := range [][]string{{"--trace", list}, {"--trace", writeFile(t, "none", []byte("none"))}} {
			if failed := finish(t, program(t, append([]string{"convert", image}, bad...)...)); failed.code == 0 || !strings.Contains(failed.stderr, "have nothing of it") {
				t.Errorf("%v: %+v", bad, failed)
			}
		}
	}
}

// TestConvertBuildsABundle builds the bundle of an image that has had a trace, and lists the artifact under
// a tag of choice.
func TestConvertBuildsABundle(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	run(t, "convert", image)
	if got := convertAs(t, image, "--bundle"); got != nil {
		t.Errorf("without a trace %+v was pushed", got)
	}
	run(t, "trace", "push", image, writeFile(t, "list", []byte(filePath("1"))), "--command", "app")
	fast := image + "-fast"
	requireOutput(t, run(t, "convert", "--bundle", "--tag", fast, image), "linux/amd64  start-up artifact ", ", with a bundle of ")
	for _, name := range []string{image, fast} {
		got := startupOf(t, name)
		if got == nil || got.Bundle == nil || len(got.Traces) != 1 || got.Traces[0].Command != "app" {
			t.Errorf("%s has %+v", name, got)
		}
	}
	if got := convertAs(t, image, "--bundle"); got != nil {
		t.Errorf("there is one, but %+v was pushed", got)
	}
}
