package node_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
	"github.com/brisk-project/brisk/test/torture"
)

// convertFull converts an image in full mode and returns the tag of the result, and the blobs of its
// layers.
func convertFull(t *testing.T, reg *registrytest.Registry, image name.Reference) (tag string, blobs []block.Digest) {
	t.Helper()
	to := image.Context().Tag("full")
	result, err := convert.Convert(t.Context(), newClient(t), image, convert.Config{Mode: convert.ModeFull, Tag: &to})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range result.Layers {
		blobs = append(blobs, l.FullDigest)
	}
	reg.ResetRequests()
	return to.String(), blobs
}

// A cache that was filled from an image in one mode serves the image in the other mode without a
// byte of a layer from the registry.
func TestModesShareBlocks(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	ref := push(t, reg, "app:v1", mixed().layers)
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	full, blobs := convertFull(t, reg, parsed)
	for _, l := range mixed().layers {
		blobs = append(blobs, block.Sum(l.Blob))
	}
	for _, order := range [][]string{{ref, full}, {full, ref}} {
		dir := filepath.Join(t.TempDir(), "node")
		n, stop := fillCache(t, node.Config{Dir: dir}, order[0])
		reg.ResetRequests()
		requireFiles(t, mount(t, n, order[1]).Target(), mixed().files)
		for _, r := range reg.BlobRequests() {
			if slices.ContainsFunc(blobs, func(d block.Digest) bool { return strings.HasSuffix(r.Path, d.String()) }) {
				t.Errorf("after %s was read, %s needs %s %s", order[0], order[1], r.Path, r.Range)
			}
		}
		stop()
	}
}

// An image in full mode mounts as what its layers unpack to.
func TestFullMountEqualsUnpacked(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	for _, image := range torture.Images() {
		t.Run(image.Name, func(t *testing.T) {
			t.Parallel()
			want, err := image.Unpack(t.Context(), fstree.TempDir(t))
			if err != nil {
				t.Fatal(err)
			}
			pushed := reg.Push(t, "torture/"+image.Name, registrytest.Image{Layers: tarLayers(image.Layers)})
			ref, _ := convertFull(t, reg, pushed)
			n, _ := start(t, node.Config{Backend: lazyfs.Backends()[0]})
			m := mount(t, n, ref)
			got, err := fstree.Take(m.Target())
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range fstree.Diff(want, got) {
				t.Error(line)
			}
		})
	}
}
