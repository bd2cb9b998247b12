package layout_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/layout"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/transfer"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, registrytest.LeakOptions()...) }

// session is a host and a client that uses it.
type session struct {
	*registry.Client

	files *layout.Host
}

func newSession(t *testing.T) *session {
	t.Helper()
	next := registry.NewTransport()
	files := layout.NewHost(next)
	c, err := registry.NewClient(registry.Config{Transport: files, PlainHTTP: files.Serves, StallTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := files.Close(context.WithoutCancel(t.Context()), false); err != nil {
			t.Error(err)
		}
	})
	return &session{c, files}
}

// end writes what has changed.
func (s *session) end(t *testing.T) {
	t.Helper()
	if err := s.files.Close(t.Context(), true); err != nil {
		t.Fatal(err)
	}
}

func (s *session) open(t *testing.T, text string, write bool) name.Reference {
	t.Helper()
	if !layout.IsFile(text) {
		t.Fatalf("%s is no file", text)
	}
	ref, err := s.files.Open(text, write)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func linux() v1.Platform { return v1.Platform{OS: "linux", Architecture: "amd64"} }

// image is the image of the tests.
func image(t *testing.T) registrytest.Image {
	t.Helper()
	return registrytest.Image{Layers: []registrytest.Layer{
		{Tar: registrytest.Tar(t, registrytest.Files(1, 3, 300_000)...)},
		{Tar: registrytest.Tar(t, registrytest.Files(2, 3, 300_000)...), Compression: registrytest.None},
		{Tar: registrytest.Tar(t)},
	}}
}

// write makes an OCI image layout with images under tags.
func write(t *testing.T, dir string, images map[string]registrytest.Image) {
	t.Helper()
	path, err := ggcr.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for tag, img := range images {
		annotations := map[string]string{"org.opencontainers.image.ref.name": tag}
		if tag == "" {
			annotations = nil
		}
		if err := path.AppendImage(registrytest.Build(t, img), ggcr.WithAnnotations(annotations)); err != nil {
			t.Fatal(err)
		}
	}
}

// pack makes a tar of a directory.
func pack(t *testing.T, dir, file string) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// check resolves an image, and reads all of it through its indexes.
func check(t *testing.T, s *session, ref name.Reference, img registrytest.Image) {
	t.Helper()
	resolved, err := s.Resolve(t.Context(), ref, linux())
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := s.FindArtifact(t.Context(), resolved)
	if err != nil {
		t.Fatal(err)
	}
	indexes, err := s.LayerIndexes(t.Context(), resolved, artifact)
	if err != nil {
		t.Fatal(err)
	}
	source, err := registry.NewSource(s.Client, registry.SourceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range indexes {
		source.Add(ref.Context(), l)
		got := make([]byte, l.StreamSize())
		all := block.Range{Layer: l.StreamID(), Count: block.Count(l.StreamSize())}
		if err := source.Fetch(t.Context(), block.Request{Range: all}, func(k block.Key, data []byte) error {
			copy(got[k.Offset():], data)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, img.Layers[i].Tar) {
			t.Errorf("layer %d differs", i)
		}
	}
}

// An image in a directory or archive is converted in place: it keeps its digest, has an index and
// the accelerated tag, and is read back through the index. Converting again changes nothing.
func TestConvertInPlace(t *testing.T) {
	for _, archive := range []bool{false, true} {
		for _, tag := range []string{"v1", ""} {
			dir := filepath.Join(t.TempDir(), "lay:out")
			write(t, dir, map[string]registrytest.Image{tag: image(t)})
			text := "oci:" + dir
			if archive {
				pack(t, dir, dir+".tar")
				text = "oci-archive:" + dir + ".tar"
			}
			before := newSession(t)
			plain, err := before.Resolve(t.Context(), before.open(t, text, false), linux())
			if err != nil {
				t.Fatal(err)
			}
			s := newSession(t)
			ref := s.open(t, text, true)
			result, err := convert.Convert(t.Context(), s.Client, ref, convert.Config{})
			if err != nil {
				t.Fatal(err)
			}
			check(t, s, ref, image(t))
			wanted := text + ":v1_accelerated"
			if tag == "" {
				wanted = text + ":latest_accelerated"
			}
			if got := s.files.Text(result.Tag); got != wanted || result.Platforms[0].Manifest != plain.Digest {
				t.Errorf("tag %s, want %s; digest %s, was %s", got, wanted, result.Platforms[0].Manifest, plain.Digest)
			}
			s.end(t)
			again := newSession(t)
			ref = again.open(t, text, true)
			second, err := convert.Convert(t.Context(), again.Client, ref, convert.Config{})
			if err != nil || second.TagPushed || second.Platforms[0].Pushed || second.TagDigest != result.TagDigest {
				t.Errorf("the second conversion: %+v, %v", second, err)
			}
			check(t, again, again.open(t, text+":"+strings.TrimPrefix(wanted, text+":"), false), image(t))
			again.end(t)
			left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*"))
			if err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		}
	}
}

// The layout is one that others read: go-containerregistry finds what was written.
func TestOthersReadTheLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	r := registrytest.New(t, registrytest.Config{})
	r.Push(t, "app:v1", image(t))
	s := newSession(t)
	if _, err := transfer.Copy(t.Context(), s.Client, r.Ref(t, "app:v1"), s.open(t, "oci:"+dir+":v1", true), transfer.Config{}); err != nil {
		t.Fatal(err)
	}
	s.end(t)
	path, err := ggcr.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1" {
		t.Errorf("index.json lists %+v", manifest.Manifests)
	}
	img, err := path.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		content, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		if err != nil || !bytes.Equal(got, image(t).Layers[i].Tar) {
			t.Errorf("layer %d: %v", i, err)
		}
	}
}

// What docker save writes, with and without a layout in it, is converted into a registry.
func TestDockerArchive(t *testing.T) {
	for _, kind := range []string{"old", "new"} {
		file := filepath.Join(t.TempDir(), "saved.tar")
		img := image(t)
		if kind == "new" {
			dir := t.TempDir()
			write(t, dir, map[string]registrytest.Image{"v1": img})
			pack(t, dir, file)
		} else {
			tag, err := name.NewTag("team/app:v1")
			if err != nil {
				t.Fatal(err)
			}
			if err := tarball.WriteToFile(file, tag, registrytest.Build(t, img)); err != nil {
				t.Fatal(err)
			}
		}
		r := registrytest.New(t, registrytest.Config{})
		for _, text := range []string{"docker-archive:" + file, "docker-archive:" + file + ":team/app:v1"} {
			s := newSession(t)
			src := s.open(t, text, false)
			dst := r.Ref(t, "app:"+kind)
			if _, err := transfer.Copy(t.Context(), s.Client, src, dst, transfer.Config{}); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if _, err := convert.Convert(t.Context(), s.Client, dst, convert.Config{}); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			check(t, s, dst, img)
			if _, err := s.files.Open(text, true); err == nil || !strings.Contains(err.Error(), "only read") {
				t.Errorf("writing to %s: %v", text, err)
			}
			s.end(t)
		}
	}
}

// An archive is as it was if the command that writes to it fails.
func TestArchiveIsKeptOnFailure(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(t.TempDir(), "app.tar")
	write(t, dir, map[string]registrytest.Image{"v1": image(t)})
	pack(t, dir, file)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t)
	if _, err := convert.Convert(t.Context(), s.Client, s.open(t, "oci-archive:"+file, true), convert.Config{}); err != nil {
		t.Fatal(err)
	}
	if err := s.files.Close(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the archive has changed: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Several images in a layout do not disturb each other, and an index of the same tag is replaced.
func TestSeveralTags(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	r := registrytest.New(t, registrytest.Config{})
	for tag, seed := range map[string]uint64{"v1": 1, "v2": 2} {
		r.Push(t, "app:"+tag, registrytest.Image{Layers: []registrytest.Layer{{Tar: registrytest.Tar(t, registrytest.Files(seed, 1, 1000)...)}}})
	}
	s := newSession(t)
	for _, step := range [][2]string{{"v1", "a"}, {"v2", "b"}, {"v2", "a"}} {
		dst := s.open(t, "oci:"+dir+":"+step[1], true)
		if _, err := transfer.Copy(t.Context(), s.Client, r.Ref(t, "app:"+step[0]), dst, transfer.Config{}); err != nil {
			t.Fatal(err)
		}
	}
	tags, err := s.Tags(t.Context(), s.open(t, "oci:"+dir+":a", false).Context())
	if diff := cmp.Diff([]string{"a", "b"}, tags); err != nil || diff != "" {
		t.Errorf("tags %s, %v", diff, err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 2 || index.Manifests[0].Digest != index.Manifests[1].Digest {
		t.Errorf("index.json lists %+v", index.Manifests)
	}
	if _, err := s.Resolve(t.Context(), s.open(t, "oci:"+dir+":b", false).Context().Tag("c"), linux()); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("a tag that is not there: %v", err)
	}
}
