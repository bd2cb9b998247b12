package containerd_test

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestTargets(t *testing.T) {
	d := containerdtest.Start(t, containerdtest.Config{Plain: true})
	reg := registrytest.New(t, registrytest.Config{})
	image := func(name string, platform v1.Platform) registrytest.Image {
		layer := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.File{Name: name, Data: []byte(name)})}
		layer.Blob = registrytest.Compress(t, layer)
		return registrytest.Image{Layers: []registrytest.Layer{layer}, Platform: platform}
	}
	single := reg.Push(t, "single:v1", image("single", v1.Platform{OS: "linux", Architecture: runtime.GOARCH})).DigestStr()
	index := reg.PushIndex(t, "multi:v1",
		image("amd64", v1.Platform{OS: "linux", Architecture: "amd64"}), image("arm64", v1.Platform{OS: "linux", Architecture: "arm64"}))
	if _, err := d.Client.Fetch(d.Context(), reg.Ref(t, "single:v1").String()); err != nil {
		t.Fatal(err)
	}
	pulled, err := d.Client.Fetch(d.Context(), reg.Ref(t, "multi:v1").String())
	if err != nil {
		t.Fatal(err)
	}
	all, err := images.Children(d.Context(), d.Client.ContentStore(), pulled.Target)
	if err != nil || len(all) != 2 {
		t.Fatalf("the index has %d manifests, %v", len(all), err)
	}
	// One whose index is not there, and one that is too large to be one, are nobody's concern.
	for name, size := range map[string]int64{"gone": 500, "large": 1 << 40} {
		_, err := d.Client.ImageService().Create(d.Context(), images.Image{Name: name, Target: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(name), Size: size,
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := map[string][]string{single: {single}}
	for _, one := range all {
		want[one.Digest.String()] = []string{index.DigestStr()}
	}
	known := containerdapi.NewImages(d.Address, containerdtest.Namespace)
	for range 2 { // the second time from memory
		got, err := known.Targets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	// By its own digest the manifest has one more name.
	platform := all[0].Digest.String()
	if _, err := d.Client.ImageService().Create(d.Context(), images.Image{Name: "pinned", Target: all[0]}); err != nil {
		t.Fatal(err)
	}
	got, err := known.Targets(t.Context())
	if err != nil || len(got[platform]) != 2 {
		t.Errorf("%q is called %q, %v", platform, got[platform], err)
	}
	if got, err := containerdapi.NewImages(d.Address, "other").Targets(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("another namespace has %v, %v", got, err)
	}
}

func TestNoTargets(t *testing.T) {
	known := containerdapi.NewImages(filepath.Join(t.TempDir(), "none"), containerdtest.Namespace)
	if _, err := known.Targets(t.Context()); err == nil {
		t.Error("images of nobody")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := known.Targets(ctx); err == nil {
		t.Error("images after the end")
	}
}
