package packages_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// envPush is the environment variable with a command that pushes the images to the registry
// which is its last argument.
const envPush = "BRISK_TEST_PUSH"

func TestMain(m *testing.M) { os.Exit(containerdtest.Main(m.Run)) }

// TestPush pushes the images of the chart, twice, and runs those for this machine.
func TestPush(t *testing.T) {
	command := strings.Fields(os.Getenv(envPush))
	if len(command) == 0 {
		t.Skip(envPush + ` does not say how images are pushed; "make test-push" does`)
	}
	registry := registrytest.New(t, registrytest.Config{})
	push := func(repository string) map[string]v1.Hash {
		out, err := exec.CommandContext(t.Context(), command[0], append(command[1:], "REGISTRY="+registry.Repository(t, repository).Name())...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", command, err, out)
		}
		digests := make(map[string]v1.Hash)
		for _, program := range []string{"brisk", "brisk-node", "brisk-scheduler"} {
			tags, err := remote.List(registry.Repository(t, repository+"/"+program))
			if err != nil {
				t.Fatal(err)
			}
			for _, tag := range tags {
				if !strings.Contains(tag, "-") {
					digests[program+":"+tag] = requireIndex(t, registry, repository+"/"+program+":"+tag)
				}
			}
		}
		return digests
	}
	first, second := push("first"), push("second")
	if len(first) != 3 {
		t.Fatalf("pushed are %v", first)
	}
	daemon := containerdtest.Start(t, containerdtest.Config{Plain: true})
	daemon.Snapshotter = "overlayfs"
	for image, digest := range first {
		if second[image] != digest {
			t.Errorf("%s is %s, and pushed again %s", image, digest, second[image])
		}
		name, _, _ := strings.Cut(image, ":")
		pulled := daemon.Pull(registry.Ref(t, "first/"+image).String())
		container := daemon.Create(name, pulled, []oci.SpecOpts{oci.WithImageConfigArgs(pulled, []string{"--version"})})
		container.Start()
		if code, out := container.Wait(); code != 0 || !strings.Contains(out, name+" v") {
			t.Errorf("%s exits with %d and prints %q", image, code, out)
		}
		container.Remove()
	}
}

// requireIndex fails unless an image is an OCI index of amd64 and arm64, both of which run
// its program, and returns its digest.
func requireIndex(t *testing.T, registry *registrytest.Registry, image string) v1.Hash {
	t.Helper()
	index, err := remote.Index(registry.Ref(t, image))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || manifest.MediaType != types.OCIImageIndex || len(manifest.Manifests) != 2 {
		t.Fatalf("%s is %+v, %v", image, manifest, err)
	}
	program := image[strings.LastIndex(image, "/")+1 : strings.LastIndex(image, ":")]
	for i, arch := range []string{"amd64", "arm64"} {
		descriptor := manifest.Manifests[i]
		if p := descriptor.Platform; descriptor.MediaType != types.OCIManifestSchema1 || p == nil || p.String() != "linux/"+arch {
			t.Errorf("%s has %+v", image, descriptor)
		}
		one, err := index.Image(descriptor.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := one.ConfigFile()
		if err != nil || config.Architecture != arch || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/"+program {
			t.Errorf("%s for %s has %+v, %v", image, arch, config, err)
		}
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}
