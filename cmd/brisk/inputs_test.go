package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// inputFiles are files of which the second layer of an image replaces one.
func inputFiles(seed uint64) []registrytest.File {
	return append(registrytest.Files(seed, 3, 300_000),
		registrytest.File{Name: "etc/"}, registrytest.File{Name: "etc/shared", Data: fmt.Append(nil, "of layer ", seed)},
		registrytest.File{Name: "etc/empty"})
}

func inputTar(t *testing.T, seed uint64) []byte {
	t.Helper()
	return registrytest.Tar(t, inputFiles(seed)...)
}

// inputs are images of every kind that builders make.
func inputs(t *testing.T) map[string]registrytest.Image {
	t.Helper()
	tar := inputTar(t, 1)
	above := registrytest.Layer{Tar: inputTar(t, 2)}
	image := func(layers ...registrytest.Layer) registrytest.Image { return registrytest.Image{Layers: layers} }
	docker := func(layers ...registrytest.Layer) registrytest.Image {
		return registrytest.Image{Layers: layers, Docker: true}
	}
	var many []registrytest.Layer
	for i := range uint64(127) {
		many = append(many, registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(i, 1, 1000)...)})
	}
	nothing := registrytest.Layer{Tar: registrytest.Tar(t)}
	return map[string]registrytest.Image{
		"one gzip member":   image(registrytest.Layer{Tar: tar}),
		"many gzip members": image(registrytest.Members(t, tar, 100_000), above),
		"pigz":              image(registrytest.Pigz(t, tar), above),
		"bgzip":             image(registrytest.BGZF(t, tar), above),
		"estargz":           image(registrytest.EStargz(t, inputFiles(1)...), above),
		"plain tar":         image(registrytest.Layer{Tar: tar, Compression: registrytest.None}, above),
		"zstd frames":       image(registrytest.Layer{Tar: tar, Compression: registrytest.Zstd, FrameSize: 100_000}, above),
		"one zstd frame":    image(registrytest.Layer{Tar: tar, Compression: registrytest.Zstd}, above),
		"one long zstd frame": image(
			registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(9, 1, 9<<20)...), Compression: registrytest.Zstd}),
		"zstd chunked":      image(registrytest.ZstdChunked(t, inputFiles(1)...), above),
		"docker gzip":       docker(registrytest.Layer{Tar: tar}, above),
		"docker tar":        docker(registrytest.Layer{Tar: tar, Compression: registrytest.None}, above),
		"empty layers":      image(nothing, registrytest.Layer{Tar: tar}, nothing, above, nothing),
		"only empty layers": image(nothing, nothing),
		"same layer twice":  image(registrytest.Layer{Tar: tar}, above, registrytest.Layer{Tar: tar}),
		"one file a layer":  image(registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(9, 1, 9<<20)...), Compression: registrytest.None}),
		"127 layers":        image(many...),
	}
}

// layerBytes counts what was read of the layers of an image in either mode, in bytes.
func layerBytes(reg *registrytest.Registry, blobs map[string]bool) (n int64) {
	for _, r := range reg.BlobRequests() {
		if blobs[filepath.Base(r.Path)] {
			n += r.Bytes
		}
	}
	return n
}

// awaitComplete waits until a number of mounts have all their blocks. The first may read ahead until then.
func (s site) awaitComplete(t *testing.T, mounts int) {
	t.Helper()
	p2ptest.Await(t, "all blocks", func() bool {
		status, err := node.Client{Dir: s.node}.Status(t.Context())
		if err != nil || len(status.Mounts) != mounts {
			t.Fatalf("status %+v, %v", status, err)
		}
		for _, m := range status.Mounts {
			if m.CachedBytes < m.StreamBytes {
				return false
			}
		}
		return true
	})
}

// TestInputs converts every kind of image in both modes and mounts the results with one cache. Both trees are
// what containerd unpacks, and the second mount fetches no byte of a layer: the blocks are the same ones.
func TestInputs(t *testing.T) {
	require.Root(t)
	reg := registrytest.New(t, registrytest.Config{})
	number := 0
	for name, image := range inputs(t) {
		first, second := "index", "full"
		if number++; number%2 == 0 {
			first, second = second, first
		}
		t.Run(name, func(t *testing.T) {
			ref := strings.ReplaceAll(strings.ToLower(name), " ", "-") + ":v1"
			reg.Push(t, ref, image)
			refs := map[string]string{"index": reg.Ref(t, ref).String(), "full": reg.Ref(t, ref+"-full").String()}
			index := convertJSON(t, refs["index"])
			if streamed := name == "one long zstd frame"; index.Layers[0].Streamed != streamed {
				t.Errorf("it can only be streamed: %t", !streamed)
			}
			full := convertJSON(t, "--mode", "full", "--tag", refs["full"], refs["index"])
			blobs := map[string]bool{}
			for _, l := range full.Layers {
				blobs[l.Digest.String()], blobs[l.FullDigest.String()] = true, true
			}
			var tars [][]byte
			for _, l := range image.Layers {
				tars = append(tars, l.Tar)
			}
			want, err := fstree.Unpack(t.Context(), fstree.TempDir(t), tars)
			if err != nil {
				t.Fatal(err)
			}
			s := newSite(t)
			for i, mode := range []string{first, second} {
				reg.ResetRequests()
				root := s.target(t, mode)
				args := []string{"mount", "--dir", s.node, refs[mode], root}
				if i == 0 {
					args = append(args, "--detach")
				}
				run(t, args...)
				got, err := fstree.Take(root)
				if err != nil {
					t.Fatal(err)
				}
				for _, line := range fstree.Diff(want, got) {
					t.Errorf("%s: %s", mode, line)
				}
				s.awaitComplete(t, i+1)
				n := layerBytes(reg, blobs)
				if i == 0 && n == 0 && name != "only empty layers" {
					t.Error("nothing was fetched, so this shows nothing")
				}
				if i > 0 && n > 0 {
					t.Errorf("%d bytes of layers were fetched in mode %s, although they were there from mode %s", n, second, first)
				}
			}
			run(t, "umount", "--dir", s.node, s.target(t, first))
			run(t, "umount", "--dir", s.node, s.target(t, second))
			s.awaitNoNode(t)
		})
	}
}

// convertJSON runs "brisk convert" and returns its result.
func convertJSON(t *testing.T, args ...string) *convert.Result {
	t.Helper()
	var result convert.Result
	if err := json.Unmarshal([]byte(run(t, append([]string{"convert", "-o", "json"}, args...)...)), &result); err != nil {
		t.Fatal(err)
	}
	return &result
}
