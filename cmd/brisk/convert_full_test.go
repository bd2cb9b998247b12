package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestConvertFull(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	requireOutput(t, run(t, "convert", "--mode", "full", image), "read in", "linux/amd64  image sha256:", ", index sha256:", image+"_accelerated")
	requireOutput(t, run(t, "convert", "--mode", "full", image), "had an index")
	requireOutput(t, run(t, "convert", "--mode", "auto", "--tag", image+"-auto", image), "mode index: the layers can be read in parts")
	requireOutput(t, run(t, "inspect", image+"_accelerated"), "zstd", "any part")
	requireOutput(t, run(t, "verify", image+"_accelerated"), "2 layers, 10 blocks, every digest is right")
	if got := finish(t, program(t, "convert", "--mode", "half", image)); got.code == 0 {
		t.Error("an unknown mode was accepted")
	}
}

// TestConvertFullKeepsTraces converts an image with a list of files in one mode and then in the other.
func TestConvertFullKeepsTraces(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	for i, modes := range [][]string{{"index", "full"}, {"full", "index"}} {
		image := pushImage(t, reg, fmt.Sprintf("app%d:v1", i))
		found := map[string]string{"index": image, "full": image + "_accelerated"}
		first := convertAs(t, image, "--mode", modes[0], "--trace", writeFile(t, "list", []byte(filePath("1"))), "--bundle")
		got := startupOf(t, found[modes[0]])
		if first == nil || got == nil || got.Digest != first.Digest || got.Bundle == nil {
			t.Fatalf("%s: pushed %+v, found %+v", modes[0], first, got)
		}
		if again := convertAs(t, image, "--mode", modes[0]); again != nil {
			t.Errorf("nothing has changed, but %+v was pushed", again)
		}
		run(t, "convert", "--mode", modes[1], image)
		other := startupOf(t, found[modes[1]])
		if other == nil || other.Subject == got.Subject || other.Bundle == nil || other.Bundle.Digest != got.Bundle.Digest {
			t.Errorf("%s after %s: %+v", modes[1], modes[0], other)
		}
	}
}

// requireComplete checks that a tag names nothing, or an image in full mode with all that belongs to it.
func requireComplete(t *testing.T, reg *registrytest.Registry, tag string) (there bool) {
	t.Helper()
	client, err := registry.NewClient(registry.Config{Keychain: authn.NewMultiKeychain()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	image, err := client.Resolve(t.Context(), reg.Ref(t, tag), v1.Platform{OS: "linux", Architecture: "amd64"})
	if errors.Is(err, block.ErrNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, full := image.Source(); !full {
		t.Errorf("%s is not in full mode", tag)
	}
	artifact, err := client.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.LayerIndexes(t.Context(), image, artifact); err != nil {
		t.Error(err)
	}
	for _, layer := range image.Layers {
		if _, err := client.ReadBlob(t.Context(), image.Name.Context(), layer.Digest, layer.Size, 1<<30); err != nil {
			t.Errorf("%s: %v", tag, err)
		}
	}
	return true
}

// TestConvertFullKilled kills conversions at random times. None leaves a tag behind that names
// something incomplete, and the next one ends what it has begun.
func TestConvertFullKilled(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	began := time.Now()
	run(t, "convert", "--mode", "full", pushImage(t, reg, "first:v1"))
	took := time.Since(began)
	finished := 0
	for i := range 50 {
		name := fmt.Sprintf("app%d:v1", i)
		image := pushImage(t, reg, name)
		cmd := program(t, "convert", "--mode", "full", image)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(took))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var ended *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &ended) { // whether it was killed or had ended
			t.Fatal(err)
		}
		if requireComplete(t, reg, name+"_accelerated") {
			finished++
		}
		run(t, "convert", "--mode", "full", image)
		if !requireComplete(t, reg, name+"_accelerated") {
			t.Errorf("%s was not converted after one that was killed", name)
		}
	}
	t.Logf("%d of 50 conversions had set the tag when they were killed", finished)
}

// Two conversions of an image at the same time end in one result.
func TestConvertFullTogether(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	var results [2]convert.Result
	var running sync.WaitGroup
	for i := range results {
		cmd := program(t, "convert", "--mode", "full", "-o", "json", image)
		running.Go(func() {
			out, err := cmd.Output()
			if err == nil {
				err = json.Unmarshal(out, &results[i])
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if results[0].TagDigest != results[1].TagDigest || results[0].Platforms[0].FullManifest != results[1].Platforms[0].FullManifest {
		t.Errorf("results differ: %+v, %+v", results[0], results[1])
	}
	if !requireComplete(t, reg, "app:v1_accelerated") {
		t.Error("there is no result")
	}
}
